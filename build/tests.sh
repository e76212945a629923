#!/bin/bash
# Runs all tests in two processes: whole instances in the one, everything else beside them. Both
# wait for others most of the time. Usage: build/tests.sh PYTEST
set -uo pipefail
set -m  # else what runs in the background ignores SIGINT, and so do its children
pytest=$1
log=$(mktemp)
trap 'kill %1 2>/dev/null; rm -f "$log"' EXIT

"$pytest" --ignore tests/system --durations=20 --durations-min=4 >"$log" 2>&1 &
echo "→ tests: whole instances"
"$pytest" tests/system --durations=20 --durations-min=8
system=$?
wait %1
others=$?
echo "→ tests: all others"
cat "$log"
exit $((system > others ? system : others))
