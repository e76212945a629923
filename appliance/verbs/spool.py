"""`stream-daemon spool check|repair|dump`: what waits on this machine's disk, for people.

All three work beside a running instance. `check` and `dump` only read; `repair` touches nothing
but damaged segments, which nobody else touches.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance import repair, stock
from appliance.errors import Corrupt, Exit, InstanceError
from appliance.files import Files
from appliance.instance import Instance
from appliance.salvage import Found, Lost, salvage
from appliance.segments import split
from appliance.shelf import REPAIR
from appliance.stock import Stock
from appliance.verbs import locate
from appliance.verbs.figures import print_figures

COLUMNS = ("source", "segments", "frames", "records", "bytes", "damaged")
REPLAYED = "a running instance hands them over within seconds; else collect or drain does"


def run(args: argparse.Namespace) -> int:
    """Do one of the three; exit 1 if something is damaged, or could not be brought back."""
    if (args.headers or args.bad) and args.action != "dump":
        args.grammar.error("--headers and --bad belong to: spool dump")
    instance = locate.instance(args)
    sources = _sources(instance, args.source)
    if not sources:
        whose = f"source {args.source}" if args.source else "no source"
        said = "has nothing" if args.source else "has anything"
        print(f"{whose} {said} in a spool under {instance.spool}", file=sys.stderr)
        return int(Exit.OK)
    if args.action == "repair":
        locate.as_owner(instance, args, ["spool", "repair"])
        return int(_repair(instance, sources))
    if args.action == "dump":
        return int(_dump(instance, sources, args.bad, args.headers))
    return int(_check(instance, sources))


def _sources(instance: Instance, wanted: str | None) -> list[str]:
    """Those that have something in their spools.

    Raises:
        InstanceError: it isn't ours to look at.
    """
    try:
        os.listdir(instance.spool)
    except FileNotFoundError:
        return []
    except PermissionError:
        raise locate.not_ours(instance) from None
    return [source for source in stock.sources(instance.spool) if wanted in (None, source)]


# ── check ───────────────────────────────────────────────────────────────────────────────


def _check(instance: Instance, sources: list[str]) -> Exit:
    """Verify everything that is there, and show it in a table."""
    found = {source: stock.verify(instance.spool_of(source)) for source in sources}
    print_figures(COLUMNS, [_row(source, one) for source, one in found.items()])
    worries = [line for source, one in found.items() for line in _worries(source, one)]
    for line in worries:
        print(line)
    return Exit.WRONG if worries else Exit.OK


def _row(source: str, one: Stock) -> list[str]:
    numbers = (one.segments, one.frames, one.records, one.bytes, len(one.damaged) + len(one.bad))
    return [source, *map(str, numbers)]


def _worries(source: str, one: Stock) -> Iterator[str]:
    for name, why in one.damaged.items():
        yield f"{source}: {name} is damaged: {why}\n  → it is set aside when it is its turn"
    for name in one.bad:
        yield f"{source}: {name} is set aside\n  → {REPAIR}"


# ── repair ──────────────────────────────────────────────────────────────────────────────


def _repair(instance: Instance, sources: list[str]) -> Exit:
    """Bring back what damaged segments hold, and say what could not be."""
    back = lost = 0
    for source in sources:
        directory = instance.spool_of(source)
        try:
            with repair.alone(directory):
                for done in repair.repair(directory):
                    back += done.frames
                    lost += len(done.lost)
                    _say(source, done)
        except OSError as error:
            raise InstanceError(
                f"{directory}: {error.strerror}", "nothing is gone; mend the disk and try again"
            ) from error
    if back:
        print(f"{back} frames are back\n  → {REPLAYED}")
    elif not lost:
        print("nothing is set aside")
    return Exit.WRONG if lost else Exit.OK


def _say(source: str, done: repair.Repaired) -> None:
    turned = f", {done.bits_turned} wrong bits turned back" if done.bits_turned else ""
    print(f"{source}: {done.name}: {done.frames} frames brought back{turned}")
    if done.unreadable_bytes:
        print(f"  {done.unreadable_bytes} bytes can't be read from the disk")
    for one in done.lost:
        frame = f"frame {one.frame}, " if one.frame else ""
        print(f"  lost: {frame}{one.length} bytes at byte {one.at}: {one.why}")
    if done.kept:
        print(f"  the damaged segment is kept as {done.kept}")


# ── dump ────────────────────────────────────────────────────────────────────────────────


def _dump(instance: Instance, sources: list[str], bad: bool, as_headers: bool) -> Exit:
    """Print records, or header lines, of what waits or of what is damaged."""
    read = _damaged if bad else _waiting
    complaints: list[str] = []
    for source in sources:
        for line, body in read(instance.spool_of(source), complaints.append):
            sys.stdout.buffer.write(line if as_headers else body)
    sys.stdout.flush()
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return Exit.WRONG if complaints else Exit.OK


Frames = Iterator[tuple[bytes, bytes | bytearray | memoryview]]
Complain = Callable[[str], None]


def _waiting(directory: Path, complain: Complain) -> Frames:
    for name in stock.waiting(directory):
        try:
            for entry in stock.entries(directory, name):
                yield entry.line, entry.body
        except Corrupt as error:
            complain(f"{directory / str(name)} is damaged, the rest is left out: {error.message}")


def _damaged(directory: Path, complain: Complain) -> Frames:
    for name in stock.set_aside(directory):
        data, _unreadable = repair.read_around(Files(), directory / str(name))
        for piece in salvage(data):
            if isinstance(piece, Found):
                yield split(piece.item)
            else:
                complain(_missing(directory / str(name), piece))


def _missing(path: Path, piece: Lost) -> str:
    return f"{path}: {piece.length} bytes at byte {piece.at} can't be read: {piece.why}"
