#!/bin/bash
# Makes dist/stream-daemon_VERSION_ARCH.deb out of the frozen dist/stream-daemon, and lets lintian
# look at it where that is installed.
#
#   build/deb.sh PYTHON     with the Python that can import the program, for the manual page
#
# DEBFULLNAME and DEBEMAIL say whose package it is, as for Debian's own tools.
# The same program and the same SOURCE_DATE_EPOCH make the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
program=$PWD/dist/stream-daemon
tree=.build/deb/tree
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
who="${DEBFULLNAME:-stream-daemon} <${DEBEMAIL:-nobody@localhost}>"
export SOURCE_DATE_EPOCH=$date STREAM_DAEMON_CACHE=$PWD/.build/deb/cache
umask 022

rm -rf .build/deb
mkdir -p "$tree/DEBIAN" "$STREAM_DAEMON_CACHE"
version=$("$program" --version)
version=${version##* }
arch=$(dpkg --print-architecture)
put() { install -D -m 644 /dev/stdin "$tree/$1"; } # a file from standard input
packed() { gzip -9n | put "$1.gz"; }

# ── what is in it ───────────────────────────────────────────────────────────────────────

install -D -m 755 "$program" "$tree/usr/bin/stream-daemon"
for unit in systemd/*.service systemd/*.socket; do
    [ -e "$unit" ] || continue
    sed 's|/usr/local/bin/|/usr/bin/|g' "$unit" | put "usr/lib/systemd/system/${unit##*/}"
done
doc=usr/share/doc/stream-daemon
for example in systemd/*.toml systemd/*.logrotate; do
    [ -e "$example" ] || continue
    put "$doc/examples/${example##*/}" <"$example"
done
{
    echo "stream-daemon is in the public domain:"
    cat LICENSE
    echo "What is inside the program, and under which licences. On Debian the common ones are also in"
    echo "/usr/share/common-licenses/Apache-2.0, /usr/share/common-licenses/GPL,"
    echo "/usr/share/common-licenses/LGPL and /usr/share/common-licenses/MPL-2.0."
    echo
    "$program" licenses
} | put $doc/copyright
packed $doc/changelog <<EOF
stream-daemon ($version) unstable; urgency=medium

  * What has changed is told in NEWS.

 -- $who  $(LC_ALL=C date -uRd "@$date")
EOF
packed $doc/NEWS <CHANGELOG.md
"$python" build/manpage.py "$(date -ud "@$date" +%F)" | packed usr/share/man/man1/stream-daemon.1
"$program" completion bash | put usr/share/bash-completion/completions/stream-daemon
"$program" completion zsh | put usr/share/zsh/vendor-completions/_stream-daemon
"$program" completion fish | put usr/share/fish/vendor_completions.d/stream-daemon.fish
put usr/share/lintian/overrides/stream-daemon <build/debian/lintian-overrides

# ── what dpkg is told ───────────────────────────────────────────────────────────────────

install -m 755 build/debian/{postinst,prerm,postrm} "$tree/DEBIAN"
# The oldest C library that will do: the newest symbol version that anything inside asks for.
glibc=$({ find "$STREAM_DAEMON_CACHE" -type f -exec objdump -T {} + 2>/dev/null || true; } |
    grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
size=$(du -sk --apparent-size "$tree/usr" | cut -f 1)
sed -e "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/; s/@GLIBC@/${glibc#GLIBC_}/" \
    -e "s/@WHO@/$who/" \
    build/debian/control >"$tree/DEBIAN/control"
(cd "$tree" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) | put DEBIAN/md5sums
find "$tree" -exec touch -hd "@$date" {} +

deb=dist/stream-daemon_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$tree" "$deb" >/dev/null
echo "→ $deb: $(stat -c %s "$deb") bytes, for glibc ${glibc#GLIBC_} and newer"
if [ "${LINTIAN:-yes}" != yes ] || ! command -v lintian >/dev/null; then
    echo "→ not looked at by lintian"
    exit
fi
lintian --fail-on error,warning --allow-root --info "$deb"
echo "→ lintian finds nothing wrong"
