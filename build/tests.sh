#!/bin/bash
# Runs all tests in three processes beside each other, which wait for others most of the time:
# whole instances in two halves, everything else in the third. Usage: build/tests.sh PYTEST
set -uo pipefail
set -m  # else what runs in the background ignores SIGINT, and so do its children
pytest=$1
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT

"$pytest" tests/system/test_[a-d]*.py --durations=10 --durations-min=8 >"$logs/first" 2>&1 &
first=$!
"$pytest" --ignore tests/system --durations=20 --durations-min=4 >"$logs/others" 2>&1 &
others=$!
echo "→ tests: whole instances, from e to z"
"$pytest" tests/system/test_[e-z]*.py --durations=10 --durations-min=8
code=$?
wait "$first" || code=$?
echo "→ tests: whole instances, from a to d"
cat "$logs/first"
wait "$others" || code=$?
echo "→ tests: all others"
cat "$logs/others"
exit $code
