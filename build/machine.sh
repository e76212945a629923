#!/bin/bash
# Brings this machine to what a make target needs.
#
#   machine.sh venv DIR          a virtual environment with pip, Python 3.11 or newer
#   machine.sh services          real servers for the tests to start privately
#   machine.sh mysql DIR         MySQL's own server, unpacked into DIR
#   machine.sh bench DIR         what the benchmarks compare with; rsyslog's MySQL module in DIR
#   machine.sh tree SUITE DIR [PACKAGE…]   a bare tree of that Debian release in DIR
#   machine.sh debstrap DIR OPTION… SUITE   the same, by mmdebstrap's own options
#   machine.sh compiler          what build/tree.sh needs to compile a Python
#   machine.sh freezer PYTHON    what PyInstaller needs around that Python
#   machine.sh booter            what boots a tree
#   machine.sh packager          what makes and looks at a Debian package
#
# As root on Debian and its kin, missing packages are installed; anyone else is told which
# they are and what goes without them. No service of the machine is started or enabled: the
# tests start servers of their own, on private sockets.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/usr/local/sbin"

say() { echo "→ $*"; }
die() { printf '%s\n' "$@" >&2; exit 1; }
can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_updated=false
install() {
    local lock
    say "installing with apt: $*"
    # Two of us may want something at the same time, and apt lets nobody in beside it.
    exec {lock}</var/lib/apt
    flock "$lock"
    if ! $apt_updated; then
        apt-get update -qq
        apt_updated=true
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
    exec {lock}<&-
}

# ── venv ────────────────────────────────────────────────────────────────────────────────

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$python"; then command -v "$python" && return; fi
    done
    return 1
}

no_python() {
    die "stream-daemon needs Python 3.11 or newer; found: $("${PYTHON:-python3}" --version 2>&1 || true)" \
        "  → install one (Debian 12 and Ubuntu 24.04 have it: apt-get install python3-venv)," \
        "    or name one: PYTHON=/path/to/python3.12 make …"
}

venv() {
    local dir=$1 python
    if new_enough "$dir/bin/python" && "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    if ! python=$(find_python) && can_install && [ -z "${PYTHON:-}" ]; then
        install python3-venv
    fi
    python=$(find_python) || no_python
    # Debian ships venv without what it needs; the package's name has the version in it.
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        local package
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        can_install || die "$python can't make a virtual environment" "  → apt-get install $package (as root)"
        install "$package"
    fi
    say "making $dir with $("$python" --version)"
    "$python" -m venv --clear "$dir"
}

# ── services ────────────────────────────────────────────────────────────────────────────

# Until this shell ends, no package starts its service. A policy that is there already is
# the administrator's, and stays.
hold_services() {
    local policy=/usr/sbin/policy-rc.d
    [ -e "$policy" ] && return
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

services() {
    local missing=()
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v mariadbd >/dev/null || missing+=(mariadb-server)
    command -v nc >/dev/null || missing+=(netcat-openbsd)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v socat >/dev/null || missing+=(socat)
    command -v rsyslogd >/dev/null || missing+=(rsyslog)
    command -v ps >/dev/null || missing+=(procps)
    command -v logrotate >/dev/null || missing+=(logrotate)
    [ ${#missing[@]} = 0 ] && return
    if ! can_install; then
        say "not installed: ${missing[*]}; tests that need them are skipped"
        say "to run them too: apt-get install ${missing[*]} (as root)"
        return
    fi
    hold_services
    install "${missing[@]}"
    local package
    for package in "${missing[@]}"; do # nor at the next boot
        if [ -e "/etc/init.d/${package/mariadb-server/mariadb}" ]; then
            update-rc.d "${package/mariadb-server/mariadb}" disable
        fi
    done
}

# ── trees ───────────────────────────────────────────────────────────────────────────────

# The program that unpacks Debian's packages into a folder; false if it can't be had.
need_mmdebstrap() {
    if ! command -v mmdebstrap >/dev/null && can_install; then
        install mmdebstrap debian-archive-keyring
    fi
    command -v mmdebstrap >/dev/null
}

# mmdebstrap with packages from where this machine gets its own, by the same proxy. What it
# makes appears under its name only when it is whole.
#   debstrap DIR OPTION… SUITE
debstrap() {
    local dir=$1 settings=$1.conf mirror=
    shift
    mkdir -p "$(dirname "$dir")"
    remove_tree "$dir"
    remove_tree "$dir.new"
    : >"$settings"
    if command -v apt-get >/dev/null; then
        apt-config dump --no-empty --format '%f "%v";%n' Acquire::http Acquire::https >"$settings"
        mirror=$(apt-get indextargets 'Created-By: Packages' --format '$(REPO_URI)' |
            grep -m1 '/debian/$' || true)
    fi
    echo 'Acquire::Check-Valid-Until "false";' >>"$settings"
    if ! mmdebstrap --aptopt="$settings" "$@" "$dir.new" ${mirror:+"$mirror"} >"$dir.log" 2>&1; then
        tail -n 20 "$dir.log" >&2
        remove_tree "$dir.new"
        rm -f "$settings"
        return 1
    fi
    rm -f "$settings"
    mv "$dir.new" "$dir"
}

# Without root a tree's files belong to ids that only a user namespace may touch.
remove_tree() {
    rm -rf "$1" 2>/dev/null || unshare --map-auto --map-root-user rm -rf "$1"
}

# A bare tree (Debian's "minbase") to chroot into or to boot. One whose making was cut off, or
# that is now asked for with other packages, is made anew. Root makes it as it is; anyone else
# in a user namespace.
tree() {
    local suite=$1 dir=$2 include
    shift 2
    [ -d "$dir" ] && [ "$(cat "$dir.made" 2>/dev/null)" = "$suite $*" ] && return
    rm -f "$dir.made"
    need_mmdebstrap || die "not installed: mmdebstrap, which makes a tree of Debian $suite" \
        "  → apt-get install mmdebstrap (as root)"
    say "making a tree of Debian $suite in $dir"
    include=$(IFS=, && echo "$*")
    debstrap "$dir" --variant=minbase ${include:+--include="$include"} "$suite" ||
        die "no tree of Debian $suite (see above)"
    echo "$suite $*" >"$dir.made"
}

# ── mysql ───────────────────────────────────────────────────────────────────────────────

# Debian's releases have MariaDB only, so MySQL's own server comes from its unstable branch,
# unpacked beside this machine's packages and never installed among them: the tests start it
# by the tree's own loader and libraries. Unpacking runs nothing out of the tree, so nobody has
# to be root for it.
mysql() {
    local dir=$1
    [ -x "$dir/usr/sbin/mysqld" ] && return
    if ! need_mmdebstrap; then
        say "not installed: mmdebstrap, which unpacks MySQL's own server; tests with it are skipped"
        say "to run them too: apt-get install mmdebstrap (as root)"
        return
    fi
    say "unpacking MySQL's own server into $dir"
    if debstrap "$dir.all" --mode=chrootless --variant=extract --include=mysql-server-core unstable
    then
        mkdir -p "$dir"
        mv "$dir.all/usr" "$dir/" # the rest is what apt needed, with this machine's settings
        rm -rf "$dir.all"
    else
        say "MySQL's own server can't be unpacked (see above): tests with it are skipped"
    fi
}

# ── bench ───────────────────────────────────────────────────────────────────────────────

bench() {
    if ! command -v sqlite3 >/dev/null; then
        if can_install; then
            install sqlite3
        else
            say "not installed: sqlite3; the figure B8 is left out"
            say "to measure it too: apt-get install sqlite3 (as root)"
        fi
    fi
    compgen -G '/usr/lib*/rsyslog/ommysql.so' >/dev/null ||
        compgen -G '/usr/lib*/*/rsyslog/ommysql.so' >/dev/null || rsyslog_mysql "$1"
}

# The module is unpacked and never installed: its package would ask for a database of its own,
# and make the machine's own rsyslog write into it. It fits only the rsyslog that it was built with.
rsyslog_mysql() {
    local dir=$1 version
    version=$(dpkg-query -W -f '${Version}' rsyslog 2>/dev/null) || version=
    [ -n "$version" ] && [ "$(cat "$dir.made" 2>/dev/null)" = "$version" ] && return
    say "unpacking rsyslog's module for MySQL into $dir"
    if [ -n "$version" ] && unpack "rsyslog-mysql=$version" "$dir"; then
        echo "$version" >"$dir.made"
    else
        say "it can't be had (is rsyslog installed, by apt?): the figure B6 is left out"
    fi
}

# A package's files in a folder, by anybody; root first asks anew what there is, where it must.
unpack() {
    local package=$1 dir=$2
    rm -rf "$dir" "$dir.made"
    mkdir -p "$dir"
    fetch "$package" "$dir" || { can_install && apt-get update -qq && fetch "$package" "$dir"; }
}

fetch() (
    cd "$2"
    apt-get download -qq -o APT::Sandbox::User= "$1" 2>/dev/null &&
        dpkg-deb -x ./*.deb . && rm ./*.deb
)

# ── compiler ────────────────────────────────────────────────────────────────────────────

compiler() {
    local missing=()
    command -v gcc >/dev/null || missing+=(gcc)
    command -v make >/dev/null || missing+=(make)
    command -v objdump >/dev/null || missing+=(binutils)
    command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
    command -v tclsh >/dev/null || missing+=(tcl)
    perl -MFindBin -e 1 2>/dev/null || missing+=(perl)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap debian-archive-keyring)
    [ ${#missing[@]} = 0 ] && return
    can_install || die "to build a Python for old systems, this is missing: ${missing[*]}" \
        "  → apt-get install ${missing[*]} (as root)"
    install "${missing[@]}"
}

# ── booter ──────────────────────────────────────────────────────────────────────────────

booter() {
    local missing=()
    command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
    command -v nsenter >/dev/null || missing+=(util-linux)
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap debian-archive-keyring)
    [ ${#missing[@]} = 0 ] && return
    can_install || die "to boot a Debian, this is missing: ${missing[*]}" \
        "  → apt-get install ${missing[*]} (as root)"
    install "${missing[@]}"
}

# ── freezer ─────────────────────────────────────────────────────────────────────────────

freezer() {
    local python=$1 missing=() library compiler
    if ! command -v objdump >/dev/null || ! command -v objcopy >/dev/null; then
        missing+=(binutils)
    fi
    # The stub is a static program: the compiler brings the C library along as an archive.
    compiler=${CC:-cc}
    command -v "${compiler%% *}" >/dev/null || missing+=(gcc)
    echo 'int main(void) { extern int ZSTD_versionNumber(void); return !ZSTD_versionNumber(); }' |
        $compiler -static -x c -o /dev/null - -lzstd 2>/dev/null || missing+=(libc6-dev libzstd-dev)
    command -v zstd >/dev/null || missing+=(zstd)
    # PyInstaller carries Python as a shared library; Debian keeps it in a package of its own.
    library=$("$python" -c '
import ctypes, sysconfig
try:
    ctypes.CDLL(sysconfig.get_config_var("INSTSONAME"))
except OSError:
    print("libpython" + sysconfig.get_python_version())')
    [ -z "$library" ] || missing+=("$library")
    [ ${#missing[@]} = 0 ] && return
    can_install || die "to freeze the program, this is missing: ${missing[*]}" \
        "  → apt-get install ${missing[*]} (as root)"
    install "${missing[@]}"
}

# ── packager ────────────────────────────────────────────────────────────────────────────

packager() {
    command -v dpkg-deb >/dev/null || die "dpkg-deb is missing: this is not Debian, nor its kin" \
        "  → apt-get install dpkg, or install without a package: dist/stream-daemon install"
    command -v lintian >/dev/null && return
    if can_install; then install lintian; else
        say "not installed: lintian; nobody looks at the package"
        say "to have it looked at: apt-get install lintian (as root)"
    fi
}

case ${1:-} in
venv | services | mysql | bench | tree | debstrap | compiler | freezer | booter | packager) "$@" ;;
*) die "usage: machine.sh venv|services|mysql|bench|tree|debstrap|compiler|freezer|booter|packager … (see its head)" ;;
esac
