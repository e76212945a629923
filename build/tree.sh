#!/bin/bash
# Builds the Python that goes into the frozen file, so that it runs where the C library is old.
#
#   build/tree.sh DIR     .build/tree: DIR/python runs it, DIR/licences tells what is in it
#
# A program runs from the glibc on that it was linked against. So everything that is compiled
# here is linked against that of Debian 11 (2.31), the oldest release that has packages still,
# unpacked into a folder that the compiler takes for its system (--sysroot). Nothing is run in
# it: nobody has to be root for this. A few functions that got a new version in 2.29 and 2.30
# are asked for in their older one, which makes it 2.28.
#
#   OpenSSL, SQLite, zlib, Python    Debian 13's source packages, with its security patches
#   libffi, libstdc++, libgcc_s      Debian 11's packages, as they are
#   wheels                           build/wheels.txt, hashed; manylinux_2_28 or older
#
# The same script on the same sources gives the same bytes, in whatever folder. It takes about
# four minutes of two cores; DIR is made anew when this script, the wheels or the compiler
# change, not when Debian has a newer patch: `make clean` for that, as before a release.
#
# Ends with 1 and the reason when something is missing; the program can then be frozen from
# the Python at hand.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C SOURCE_DATE_EPOCH=1

OLD=bullseye     # what is linked against
SOURCES=trixie   # what is compiled
KEYS=/usr/share/keyrings/debian-archive-keyring.gpg
PACKAGES=libc6-dev,libffi-dev,libstdc++6,libgcc-s1,base-files
PACKAGES+=,liblua5.1-0,libhiredis0.14,libabsl20200923 # only for their licence texts
SOURCE_PACKAGES=(zlib openssl sqlite3 python3.13)
TRIES=4          # versions of a source package that are tried: an index may be ahead of its mirror

say() { echo "→ $*"; }
die() { echo "$*" >&2; exit 1; }

key() { { cat build/tree.sh build/wheels.txt; uname -m; gcc --version; } 2>&1 | sha256sum; }

# ── what is needed ──────────────────────────────────────────────────────────────────────

tools() {
    build/machine.sh compiler || exit 1
    ARCH=$(gcc -print-multiarch)
    case $ARCH in
    x86_64-linux-gnu) OLD_SYMBOLS=GLIBC_2.2.5 ;;
    aarch64-linux-gnu) OLD_SYMBOLS=GLIBC_2.17 ;;
    *) die "no recipe for a machine of the kind ${ARCH:-unknown}, only for x86-64 and arm64" ;;
    esac
}

sysroot() {
    say "unpacking the C library of Debian $OLD"
    build/machine.sh debstrap "$WORK/system" --mode=chrootless --variant=extract \
        --include="$PACKAGES" "$OLD"
    # A link to /lib/… means that of the tree, not this machine's.
    find "$WORK/system" -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do
        ln -sfn "$WORK/system$target" "$link"
    done
}

# ── sources ─────────────────────────────────────────────────────────────────────────────

# apt with state of its own, so that neither root nor the machine's list of sources is needed.
private_apt() {
    local program=$1
    shift
    "$program" -qq -o Dir::State="$WORK/apt" -o Dir::Cache="$WORK/apt" \
        -o Dir::Etc::sourcelist="$WORK/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Acquire::Languages=none -o APT::Sandbox::User= "$@"
}

# The newest version that the mirror really holds, with Debian's patches.
fetch_source() {
    local package=$1 version
    for version in $(versions "$package"); do
        if download "$package=$version"; then
            (cd "$WORK/sources" && dpkg-source --no-check -x "${package}_${version#*:}.dsc" \
                "$package") >>"$WORK/sources.log" 2>&1
            echo "$version" >"$WORK/sources/$package.version"
            return
        fi
    done
    tail -n 5 "$WORK/sources.log" >&2
    die "the mirror has no source of $package"
}

versions() {
    private_apt apt-cache showsrc --only-source "$1" | sed -n 's/^Version: //p' | sort -Vru |
        head -n "$TRIES"
}

download() {
    (cd "$WORK/sources" && private_apt apt-get source --only-source --download-only "$@") \
        >>"$WORK/sources.log" 2>&1
}

sources() {
    local mirror package
    say "fetching sources of Debian $SOURCES"
    mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p;T;q' "$WORK/system/etc/apt/sources.list")
    mkdir -p "$WORK/sources" "$WORK/apt/lists/partial" "$WORK/apt/archives/partial"
    printf "deb-src [signed-by=$KEYS] $mirror %s main\n" $SOURCES $SOURCES-updates \
        >"$WORK/apt/sources.list"
    private_apt apt-get update
    for package in "${SOURCE_PACKAGES[@]}"; do fetch_source "$package"; done
}

# ── compiling ───────────────────────────────────────────────────────────────────────────

# The compiler as everything below calls it. No path of this machine gets into what it makes. It
# knows libraries by where it lies itself, too, so that --sysroot alone would find this machine's.
compiler() {
    mkdir -p "$WORK/bin"
    cat >"$WORK/old.h" <<END
/* The newer versions, of 2.29, leave out error handling that only System V programs ask for. */
#ifndef __ASSEMBLER__
__asm__(".symver exp,exp@$OLD_SYMBOLS");
__asm__(".symver exp2,exp2@$OLD_SYMBOLS");
__asm__(".symver log,log@$OLD_SYMBOLS");
__asm__(".symver log2,log2@$OLD_SYMBOLS");
__asm__(".symver pow,pow@$OLD_SYMBOLS");
#endif
END
    cat >"$WORK/bin/cc" <<END
#!/bin/sh
exec gcc --sysroot="$WORK/system" -B"$WORK/system/usr/lib/$ARCH/" -include "$WORK/old.h" -g0 \\
    -ffile-prefix-map="$WORK"=. -Wl,--build-id=none "\$@"
END
    chmod +x "$WORK/bin/cc"
    export CC="$WORK/bin/cc" PKG_CONFIG=false
}

# Runs a step in a source's folder; its output is shown only if it fails.
step() {
    local package=$1 log=$WORK/$1.log
    shift
    (cd "$WORK/sources/$package" && "$@") >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "$package can't be built: ${*:1:3} … (all of it in $log)"
    }
}

build_zlib() {
    step zlib env CFLAGS="-O2 -fPIC" ./configure --static --prefix=/usr
    step zlib make -j"$JOBS" libz.a
    step zlib install -D -t "$PREFIX/lib" libz.a
    step zlib install -D -m 644 -t "$PREFIX/include" zlib.h zconf.h
}

# What is left out are old algorithms, and protocols that nothing here speaks.
build_openssl() {
    say "compiling OpenSSL"
    step openssl ./Configure --prefix=/usr --libdir=lib --openssldir=/etc/ssl shared \
        no-apps no-docs no-tests no-legacy no-engine no-module no-dso no-comp no-dtls \
        no-quic no-cms no-cmp no-ts no-ct no-srp no-psk no-sctp no-http no-gost no-sm2 no-sm3 \
        no-sm4 no-aria no-camellia no-seed no-idea no-cast no-bf no-rc2 no-rc4 no-md4 no-mdc2 \
        no-whirlpool no-rmd160 no-slh-dsa no-ml-dsa no-dsa no-ssl3 no-tls1 no-tls1_1
    step openssl make -j"$JOBS" build_generated
    step openssl make -j"$JOBS" libcrypto.so libssl.so
    step openssl sh -c "cp -P libcrypto.so* libssl.so* '$PREFIX/lib/'"
    step openssl cp -rL include/openssl "$PREFIX/include/"
}

build_sqlite3() {
    say "compiling SQLite"
    step sqlite3 env CFLAGS=-O2 ./configure --disable-tcl --disable-readline --disable-static \
        --disable-load-extension --prefix=/usr
    step sqlite3 make sqlite3.c
    step sqlite3 "$CC" -O2 -fPIC -shared -Wl,-soname,libsqlite3.so.0 -DSQLITE_THREADSAFE=1 \
        -DSQLITE_ENABLE_MATH_FUNCTIONS -DSQLITE_OMIT_LOAD_EXTENSION \
        -o "$PREFIX/lib/libsqlite3.so.0" sqlite3.c -lm -lpthread
    ln -sf libsqlite3.so.0 "$PREFIX/lib/libsqlite3.so"
    step sqlite3 install -m 644 -t "$PREFIX/include" sqlite3.h
}

# Modules that the program never imports aren't built; sem_clockwait is newer than 2.28.
build_python() {
    local system=$WORK/system/usr
    say "compiling Python"
    # The Makefile remembers the path of libraries with which it was configured.
    step python3.13 env LD_LIBRARY_PATH="$PREFIX/lib" \
        ac_cv_func_sem_clockwait=no OPT="-O3 -DNDEBUG" \
        py_cv_module__tkinter=n/a py_cv_module_readline=n/a py_cv_module__curses=n/a \
        py_cv_module__uuid=n/a py_cv_module__dbm=n/a py_cv_module__gdbm=n/a \
        CPPFLAGS="-I$PREFIX/include" LDFLAGS="-L$PREFIX/lib" \
        ZLIB_CFLAGS="-I$PREFIX/include" ZLIB_LIBS="$PREFIX/lib/libz.a" \
        LIBFFI_CFLAGS="-I$system/include/$ARCH" LIBFFI_LIBS="$system/lib/$ARCH/libffi_pic.a" \
        LIBSQLITE3_CFLAGS="-I$PREFIX/include" LIBSQLITE3_LIBS="-L$PREFIX/lib -lsqlite3" \
        ./configure --prefix=/usr --enable-shared --with-openssl="$PREFIX" \
        --with-system-libmpdec=no --without-ensurepip --disable-test-modules
    step python3.13 make -j"$JOBS"
    step python3.13 make DESTDIR="$NEW" altbininstall sharedinstall inclinstall
    step python3.13 cp -r Lib/. "$PREFIX/lib/python3.13"
    step python3.13 sh -c "cp \$(cat pybuilddir.txt)/_sysconfigdata*.py '$PREFIX/lib/python3.13/'"
    (cd "$PREFIX/lib/python3.13" && rm -rf test idlelib turtledemo tkinter ensurepip __pycache__)
    sed -i "s#$WORK#/build#g; s#$PREFIX#/usr#g" "$PREFIX"/lib/python3.13/_sysconfigdata*.py
}

# ── putting together ────────────────────────────────────────────────────────────────────

# What C++ wheels share, in the old release's version: the machine's own would need its glibc.
runtime() {
    cp -L "$WORK/system/usr/lib/$ARCH/libstdc++.so.6" "$PREFIX/lib/"
    cp -L "$WORK/system/lib/$ARCH/libgcc_s.so.1" "$PREFIX/lib/"
}

# PyInstaller looks for libraries where the loader does.
launcher() {
    cat >"$NEW/python" <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here/usr/lib" PYTHONPATH="$here/wheels" PYTHONDONTWRITEBYTECODE=1
exec "$here/usr/bin/python3.13" "$@"
END
    chmod +x "$NEW/python"
    "$NEW/python" -c 'import ctypes, hashlib, sqlite3, ssl, zlib' ||
        die "the new Python lacks a module (logs: $WORK/*.log)"
}

# One line per part: name, version, SPDX licence, Debian release and source package; its
# licence's text beside it. build/sbom.py reads them.
licence() {
    local name=$1 version=$2 spdx=$3 release=$4 package=$5
    shift 5
    cat "$@" >"$NEW/licences/$name.txt"
    printf '%s\t' "$name" "$version" "$spdx" >>"$NEW/licences/components.tsv"
    echo "pkg:deb/debian/$package@$version?arch=source&distro=$release" \
        >>"$NEW/licences/components.tsv"
}

compiled() { cat "$WORK/sources/$1.version"; }
unpacked() { gzip -dc "$WORK/system/usr/share/doc/$1/changelog.Debian.gz" | sed -n '1s/.*(\(.*\)).*/\1/p'; }

licences() {
    local from=$WORK/sources doc=$WORK/system/usr/share/doc
    local common=$WORK/system/usr/share/common-licenses
    mkdir -p "$NEW/licences"
    licence cpython "$(compiled python3.13)" Python-2.0.1 $SOURCES python3.13 \
        "$from/python3.13/LICENSE" "$from/python3.13/Doc/license.rst"
    licence openssl "$(compiled openssl)" Apache-2.0 $SOURCES openssl "$from/openssl/LICENSE.txt"
    licence sqlite "$(compiled sqlite3)" blessing $SOURCES sqlite3 "$from/sqlite3/LICENSE.md"
    licence zlib "$(compiled zlib)" Zlib $SOURCES zlib "$from/zlib/LICENSE"
    licence libffi "$(unpacked libffi-dev)" MIT $OLD libffi "$doc/libffi-dev/copyright"
    licence gcc-runtime "$(unpacked gcc-10-base)" "GPL-3.0-or-later WITH GCC-exception-3.1" \
        $OLD gcc-10 "$doc/gcc-10-base/copyright"
    # What is linked into those and others, and what Debian's notes only point to.
    cp "$from/python3.13/Modules/expat/COPYING" "$NEW/licences/expat.txt"
    cp "$doc/liblua5.1-0/copyright" "$NEW/licences/lua.txt"
    cp "$doc/libhiredis0.14/copyright" "$NEW/licences/hiredis.txt"
    cat "$doc/libabsl20200923/copyright" "$common/Apache-2.0" >"$NEW/licences/abseil.txt"
    cat "$common/GPL-3" >>"$NEW/licences/gcc-runtime.txt"
    cp "$common/LGPL-2.1" "$NEW/licences/glibc.txt"
}

wheels() {
    local machine=${ARCH%%-*} glibc platforms=(--platform "manylinux2014_${ARCH%%-*}")
    say "fetching wheels"
    for glibc in 28 27 26 24 17 12 5; do platforms+=(--platform "manylinux_2_${glibc}_$machine"); done
    .venv/bin/python -m pip --disable-pip-version-check -qq install --target "$NEW/wheels" \
        --no-compile --no-deps --only-binary=:all: --require-hashes --implementation cp \
        --python-version 3.13 "${platforms[@]}" -r build/wheels.txt
}

DIR=$(realpath -m "$1")
NEW=$DIR.new
WORK=$DIR.work
PREFIX=$NEW/usr
JOBS=$(nproc)
mkdir -p "$(dirname "$DIR")"
exec 9>"$DIR.lock"
flock 9 # who comes while it is being built finds it done
[ "$(key)" = "$(cat "$DIR/key" 2>/dev/null)" ] && exit
say "building a Python for old systems, once, about four minutes"
tools
rm -rf "$DIR" "$NEW" "$WORK"
mkdir -p "$WORK" "$PREFIX/lib" "$PREFIX/include"
sysroot
compiler
sources
build_zlib
build_openssl
build_sqlite3
build_python
runtime
licences
wheels
launcher
key >"$NEW/key"
mv "$NEW" "$DIR"
rm -rf "$WORK"
