#!/bin/bash
# Tries dist/stream-daemon on Debians that are booted by systemd-nspawn, which takes root. Where
# that can't be, it says in one line why not, and that is no failure.
# Usage: build/booted.sh PYTHON [PYTEST OPTION…]
#
#   FULL=1   all of it, on three releases: half an hour instead of two minutes
#   SEED=N   the same again
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
shift
# What a server has, and somebody to send and look with; no Python, no Redis.
packages=(systemd systemd-sysv dbus libpam-systemd netcat-openbsd sqlite3 mariadb-server)
suites=(bookworm)
[ -z "${FULL:-}" ] || suites+=(bullseye trixie)

not_run() {
    echo "→ not run: trials on a booted systemd: $*"
    exit 0
}

[ "$(id -u)" = 0 ] || not_run "only root can boot a machine; try: sudo make check-system"
[ -x dist/stream-daemon ] || not_run "there is no dist/stream-daemon; try: make binary"
build/machine.sh booter || not_run "see above"
for suite in "${suites[@]}"; do
    build/machine.sh tree "$suite" ".build/trees/$suite" "${packages[@]}" || not_run "see above"
done
why=$("$python" -m tests.booted .build/trees/bookworm 2>&1) ||
    not_run "systemd-nspawn can't boot a Debian here: ${why##*$'\n'}"

echo "→ trials on a booted systemd"
exec "$python" -m pytest -m booted tests/booted "$@"
