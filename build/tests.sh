#!/bin/bash
# Runs all tests in four processes beside each other, which wait for others most of the time.
# Usage: build/tests.sh PYTEST
set -uo pipefail
set -m  # else what runs in the background ignores SIGINT, and so do its children
pytest=$1
logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT

declare -A lanes=(
    ["whole instances, from a to d"]="$(echo tests/system/test_[a-d]*.py)"
    ["contracts and crashes"]="tests/contract tests/crash"
    ["all others"]="--ignore tests/system --ignore tests/contract --ignore tests/crash"
)
declare -A pids
for lane in "${!lanes[@]}"; do
    # shellcheck disable=SC2086 # a lane is several words
    "$pytest" ${lanes[$lane]} --durations=10 --durations-min=8 >"$logs/$lane" 2>&1 &
    pids[$lane]=$!
done
echo "→ tests: whole instances, from e to z"
"$pytest" tests/system/test_[e-z]*.py --durations=10 --durations-min=8
code=$?
for lane in "${!lanes[@]}"; do
    wait "${pids[$lane]}" || code=$?
    echo "→ tests: $lane"
    cat "$logs/$lane"
done
exit $code
