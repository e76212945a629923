"""`stream-daemon audit`: is every record that came in accounted for?

The accounts of collectors, queue and ledger are read and held against each other (auditor.py,
balance.py). Beside a running instance it only looks. Alone it holds the instance's lock, as
`drain` does, and brings the embedded server for the time of the look. It writes nothing to queue
or store.

While frames move a look may find a difference that is none, so a difference counts if it is there
at every look: the first look without one is the end. A server that was just killed is back after
a moment, so one that is away is asked again, too.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from appliance import logs, process
from appliance.accounts import Recount
from appliance.app import App
from appliance.auditor import Auditor
from appliance.balance import Balance, Line, Standing
from appliance.counters import Board
from appliance.errors import Exit, InstanceError, StreamDaemonError, Unavailable
from appliance.instance import Instance
from appliance.verbs import holder, locate
from appliance.verbs.figures import print_figures

QUIET_LEVEL = "error"
LOOKS_MAX = 10
LOOKS_MIN = 2  # when the time is over after one, nobody knows whether what it found stays
LOOK_AGAIN_S = 0.3
AWAY_LOOKS_MAX = 10  # so often a server that is away is asked
AWAY_S = 0.5

COLUMNS = ("received", "stored", "filtered", "dead", "blank", "lost", "queued", "difference")


class OutOfTime(StreamDaemonError):
    """Nobody can tell yet whether the accounts agree."""

    exit_code = Exit.TIMED_OUT


def run(args: argparse.Namespace) -> int:
    """Compare all accounts; exit 0 if they agree, 1 if they don't, 69 if one can't be had."""
    config, instance, _file = locate.load(args)
    words = ["--recount"] if args.recount else []
    locate.as_owner(instance, args, ["audit", *words])
    if not instance.directory.is_dir():
        raise InstanceError(
            f"no instance has run in {instance.directory}",
            "is `state_dir` (or $STATE_DIRECTORY) the one that the instance has?",
        )
    process.fill_standard_descriptors()
    logs.set_up_stderr(config.log, config.name, "audit", QUIET_LEVEL)
    app = App(config, instance)
    with process.Errand(args.timeout) as errand:
        try:
            found = _audit(app, instance, errand, args)
        except process.Overdue:
            raise _out_of_time(errand) from None
    print(json.dumps(_report(found), indent=2) if args.json else _page(found))
    return int(Exit.WRONG if found.differences else Exit.OK)


def _audit(
    app: App, instance: Instance, errand: process.Errand, args: argparse.Namespace
) -> Balance:
    slot = Board().slot("audit")
    with (
        _turn(instance, errand) as alone,
        app.auditor(errand, slot, alone, args.timeout) as auditor,
    ):
        looks_max = LOOKS_MIN if alone else LOOKS_MAX
        return _look_until_sure(auditor, errand, looks_max, recount=args.recount)


# ── alone, or beside an instance ────────────────────────────────────────────────────────


@contextmanager
def _turn(instance: Instance, errand: process.Errand) -> Iterator[bool]:
    """Whether no instance runs; then nobody can start one, and no `drain` is at work.

    Raises:
        StillHeld: others are at work there at our end.
    """
    turn, lock = process.Lock(instance.drain_lock), process.Lock(instance.lock)
    try:
        alone = _takes_turn(turn, instance, errand) and holder.is_alone(lock, instance, errand)
        if not alone:
            turn.release()  # a drain may work beside us
        yield alone
    finally:
        lock.release()
        turn.release()


def _takes_turn(turn: process.Lock, instance: Instance, errand: process.Errand) -> bool:
    """Wait until no drain is at work; False: an instance runs, so nobody needs to be waited for."""
    while holder.parent(instance) is None:
        if turn.try_acquire():
            return True
        if errand.stop:
            raise holder.StillHeld(
                f"a drain, or another audit, is at work (pid {holder.draining(instance)})",
                "run this again when it is done",
            )
        errand.wait(holder.LOOK_AGAIN_S)  # flock(2) has no descriptor to wait on
    return False


# ── looking ─────────────────────────────────────────────────────────────────────────────


def _look_until_sure(
    auditor: Auditor, errand: process.Errand, looks_max: int, *, recount: bool
) -> Balance:
    """Look until a look finds no difference, or has found the same ones again and again.

    Raises:
        OutOfTime: told to end, or the time is over, before anybody could tell.
    """
    standing, looks = Standing(), 0
    while True:
        found = _look(auditor, errand, recount=recount)
        standing.look(found)
        looks += 1
        if not found.differences or looks == looks_max:
            return found
        if errand.stop:
            if errand.drain or looks < LOOKS_MIN:
                raise _out_of_time(errand)
            return found
        errand.wait(LOOK_AGAIN_S)


def _look(auditor: Auditor, errand: process.Errand, *, recount: bool) -> Balance:
    """One look; who is away for a moment is waited for.

    Raises:
        Unavailable: the queue or the store is away for longer.
    """
    for _ in range(AWAY_LOOKS_MAX):
        try:
            return auditor.look(recount=recount)
        except Unavailable as error:
            away = error
            if errand.stop:
                break
            errand.wait(AWAY_S)
    raise away


def _out_of_time(errand: process.Errand) -> OutOfTime:
    if errand.drain:
        return OutOfTime("told to end before it was sure", "run audit again")
    return OutOfTime(
        "the time is over, and it isn't sure yet", "run audit again with a longer --timeout"
    )


# ── what is said ────────────────────────────────────────────────────────────────────────


def _page(found: Balance) -> str:
    """What people see below the table, which is printed first."""
    lines = dict(found.lines)
    if len(lines) > 1:
        lines["all"] = found.total
    if lines:
        rows = [[name, *_figures(line)] for name, line in lines.items()]
        print_figures(("source", *COLUMNS), rows)
    return "\n".join([*_notes(found), *_verdict(found)])


def _figures(line: Line) -> list[str]:
    return [f"{getattr(line, name):,}" for name in COLUMNS]


def _notes(found: Balance) -> Iterator[str]:
    for remark in found.remarks:
        yield remark.text
        if remark.hint:
            yield f"  → {remark.hint}"
    for source, line in found.lines.items():
        if line.stretches:
            yield (
                f"{line.stretches:,} stretches of source {source} never reached us, and nobody"
                " knows how many records they were"
            )
    if found.recount:
        yield from _counted(found.recount, found.total)


def _counted(recount: Recount, total: Line) -> Iterator[str]:
    yield f"counted: {recount.rows:,} rows in table {recount.table}"
    yield f"counted: {sum(recount.dead.values()):,} dead letters"
    if recount.rewrites and recount.rows < total.stored:
        yield '  → a record written over a row (on_duplicate = "update") has none of its own'


def _verdict(found: Balance) -> Iterator[str]:
    if not found.differences:
        lost = f"; {found.total.lost:,} of them are lost" if found.total.lost else ""
        yield f"all {found.total.received:,} records are accounted for{lost}"
    for one in found.differences:
        yield f"DIFFERENCE: {one.text}\n  → {one.hint}"


def _report(found: Balance) -> dict[str, Any]:
    """The same for programs."""
    recount = found.recount
    return {
        "agrees": not found.differences,
        "sources": {name: _facts(line) for name, line in found.lines.items()},
        "total": _facts(found.total),
        "differences": [asdict(one) for one in found.differences],
        "remarks": [asdict(remark) for remark in found.remarks],
        "recount": recount and {**asdict(recount), "dead": dict(recount.dead)},
    }


def _facts(line: Line) -> dict[str, int]:
    return {**asdict(line), "difference": line.difference}
