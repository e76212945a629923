"""Packs a folder behind the stub: one file that unpacks itself once and becomes what it holds.

    the stub (build/stub/stub.c), a static ELF program
    a tar archive (ustar), compressed with zstd
    one line of TRAILER_BYTES: lengths, counts, and the archive's hash

So `tail -c +N FILE | zstd -dc | tar t` shows what is inside, N being one more than the stub's
length. The same folder gives the same bytes: order, owners, times and modes are made equal.
"""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUB = ROOT / "build/stub/stub.c"
NAME_BYTES_MAX = 99  # the stub doesn't read ustar's prefix field
HASH_CHARS = 32
TRAILER_BYTES = 128
LEVEL = 12  # 19 makes it 2 MB smaller, in eight times the time


def compile_stub(program: Path) -> None:
    """Build the stub with the C compiler ($CC, else cc), for this machine's kind of processor."""
    compiler = os.environ.get("CC", "cc").split()
    flags = ["-std=gnu11", "-Os", "-static", "-s", "-Wall", "-Wextra"]
    names = [f"-ffile-prefix-map={ROOT}=.", "-Wl,--build-id=none"]
    command = [*compiler, *flags, *names, str(STUB), "-lzstd", "-o", str(program)]
    subprocess.run(command, check=True)


def pack(folder: Path, stub: Path, result: Path) -> None:
    """Write the one file, whole or not at all."""
    contents = sorted(folder.rglob("*"))
    archive = _compress(_tar(folder, contents))
    files = [path for path in contents if path.is_symlink() or not path.is_dir()]
    size = sum(path.stat().st_size for path in files if not path.is_symlink())
    digest = hashlib.sha256(archive).hexdigest()[:HASH_CHARS]
    trailer = (
        f"stream-daemon-archive packed={len(archive)} files={len(files)} bytes={size} hash={digest}"
    )
    new = result.with_suffix(".new")
    new.write_bytes(stub.read_bytes() + archive + trailer.ljust(TRAILER_BYTES - 1).encode() + b"\n")
    new.chmod(0o755)
    new.replace(result)


def _tar(folder: Path, contents: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in contents:
            name = str(path.relative_to(folder))
            if len(name.encode()) > NAME_BYTES_MAX:
                raise ValueError(f"{name}: the stub takes names of {NAME_BYTES_MAX} bytes at most")
            tar.add(path, name, recursive=False, filter=_plain)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of the machine that it was built on."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    if entry.islnk():
        raise ValueError(f"{entry.name} is a second link to {entry.linkname}")
    return entry


def _compress(data: bytes) -> bytes:
    """One thread, because the bytes depend on their number; with the checksum of the content."""
    command = ["zstd", f"-{LEVEL}", "--single-thread", "--check", "--quiet", "--stdout"]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout
