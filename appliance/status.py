"""`status` in words and as JSON: pure, from what the parent knows of its children.

Keys of the JSON are a contract: more may come, none goes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from appliance import signals
from appliance.contracts import Gauge
from appliance.errors import Exit

PerSecond = Callable[[str], float]
"""How fast the counter of this name grows; see `counters_of` for the names."""
STORED = "stored"


@dataclass(frozen=True, slots=True)
class ChildState:
    """One process: `pid` None while it is dead; `kind` as in the process table.

    `held`: what a collector has in hand outlives it. `refusing`: why its records become nothing
    but dead letters; empty when rows are stored. `retired`: it isn't wanted any more, but what it
    has stored still counts. `alone`: a frame that it goes through record by record, since others
    died with it (see poison.py).
    """

    kind: str
    name: str
    type: str
    pid: int | None
    restarts: int
    gauge: Gauge
    waiting_for: str
    last_error: str
    last_error_at: int = 0  # seconds since the epoch
    refusing: str = ""
    held: bool = True
    retired: bool = False
    alone: str = ""

    @property
    def gone(self) -> bool:
        """Whether nobody misses it."""
        return self.retired and self.pid is None


@dataclass(frozen=True, slots=True)
class Log:
    """What became of the log: lines lost since the start, and why some are lost now.

    `last_error`: the newest that the parent itself had to say, and when (seconds since the epoch).
    """

    lost: int = 0
    error: str = ""
    last_error: str = ""
    last_error_at: int = 0


def counters_of(children: list[ChildState]) -> dict[str, int]:
    """The counters whose rates `report` asks for: what each source read, and what is stored."""
    read = {_counter(c): c.gauge.get("records") for c in children if c.kind == "collector"}
    stored = sum(c.gauge.get("stored") for c in children if c.kind == "subscriber")
    return {**read, STORED: stored}


def _counter(source: ChildState) -> str:
    return f"source {source.name}"


def report(
    identity: dict[str, Any],
    children: list[ChildState],
    stopping: bool,
    paused: bool,
    per_s: PerSecond,
    now: float,
    log: Log = Log(),
    keeper: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of `status --json`.

    `identity` is name, version, pid and since; `now` is in seconds since the epoch; `keeper` is
    None where somebody else, or nobody, holds our sockets.
    """
    sources = [child for child in children if child.kind == "collector"]
    subscribers = [child for child in children if child.kind == "subscriber"]
    recovery = next(child for child in children if child.kind == "recovery")
    return {
        **identity,
        "state": _state(children, stopping, paused),
        "ready": reached(children) and _attached(sources),
        "paused": paused,
        "sources": {child.name: _source(child, per_s) for child in sources},
        "subscribers": _subscribers(subscribers),
        "recovery": {
            "pid": recovery.pid,
            "restarts": recovery.restarts,
            "spool": {"bytes": recovery.gauge.get("spool_bytes")},
        },
        "keeper": keeper,
        "queue": _queue(recovery),
        "store": {
            **{
                name: sum(child.gauge.get(name) for child in subscribers)
                for name in ("stored", "filtered", "dead", "lost")
            },
            "per_s": round(per_s(STORED), 1),
            "lag_s": _lag_s(subscribers, _queue(recovery), now),
            "waiting_for": next(
                (c.waiting_for for c in subscribers if c.waiting_for and not c.gone), ""
            ),
            "refusing": next((c.refusing for c in subscribers if c.refusing and not c.gone), ""),
        },
        "log": {"lost": log.lost, "error": log.error},
        **_last_error(children, log),
    }


def reached(children: list[ChildState]) -> bool:
    """Whether queue and store have answered since the start: orphans swept, tables prepared.

    Where nobody stores (`subscribers = 0`), the store isn't asked.
    """
    recovery = next(child for child in children if child.kind == "recovery")
    storing = [child for child in children if child.kind == "subscriber" and not child.gone]
    prepared = not storing or any(child.gauge.get("prepared") for child in storing)
    return recovery.gauge.get("swept") > 0 and prepared


def _attached(sources: list[ChildState]) -> bool:
    """Whether each source was taken up once (one that isn't there yet is looked for)."""
    return all(child.gauge.get("attached") for child in sources)


def awaited(report: dict[str, Any]) -> list[str]:
    """What an instance waits for, in words."""
    texts = [
        report["queue"]["waiting_for"],
        report["store"]["waiting_for"],
        *(source["waiting_for"] for source in report["sources"].values()),
    ]
    return list(dict.fromkeys(filter(None, texts)))


def line(report: dict[str, Any], starting: bool) -> str:
    """How it goes, in one line, for who has started us: `systemctl status` shows it.

    `starting`: it wasn't ready yet.
    """
    sources = report["sources"].values()
    connections = sum(source["connections"] for source in sources)
    per_s = sum(source["per_s"] for source in sources)
    waiting = report["queue"]["frames"] + report["queue"]["busy"]
    figures = [
        f"{connections:,} connection{'' if connections == 1 else 's'}",
        f"{per_s:,.0f} records/s",
        f"{waiting:,} frame{'' if waiting == 1 else 's'} waiting",
    ]
    what = "starting" if starting and report["state"] != "stopping" else report["state"]
    return f"{what}: {', '.join([*_troubles(report), *figures])}"


def _troubles(report: dict[str, Any]) -> list[str]:
    spooled = sum(source["spool"]["bytes"] for source in report["sources"].values())
    said = awaited(report)
    return [
        *(text if text == signals.PAUSED else f"waiting for {text}" for text in said),
        *([report["store"]["refusing"]] if report["store"]["refusing"] else []),
        *([f"{spooled:,} bytes in the spool"] if spooled else []),
    ]


def exit_code(report: dict[str, Any]) -> Exit:
    """What `status` exits with."""
    return Exit.OK if report["state"] == "healthy" else Exit.DEGRADED


def screen(report: dict[str, Any]) -> str:
    """`status` for people: its first line is a sentence."""
    lines = [_sentence(report), ""]
    for name, source in report["sources"].items():
        lines.append(
            f"source {name} ({source['type']}): {source['records']} records "
            f"({source['per_s']:g}/s), {source['connections']} connections, "
            f"{_process(source)}"
        )
        if not source["held"]:
            lines.append("  not held: what it has in hand is lost if its process is killed")
        lines += _spooled(source["spool"]["bytes"])
        if source["dropped"]:
            lines.append(f"  {source['dropped']} records found no room anywhere and are lost")
        lines += _waits(source["waiting_for"])
    queue, store = report["queue"], report["store"]
    lines.append(
        f"queue: {queue['frames']} frames wait, {queue['busy']} in hand, {queue['bytes']} bytes"
    )
    lines += _waits(queue["waiting_for"])
    lines.append(
        f"store: {store['stored']} stored ({store['per_s']:g}/s), {store['filtered']} filtered, "
        f"{store['dead']} dead letters, {store['lost']} lost, {_behind(store['lag_s'])}"
    )
    lines += _waits(store["waiting_for"])
    lines += [f"  {store['refusing']}"] if store["refusing"] else []
    for one in report["subscribers"]:
        lines.append(f"subscriber {one['n']}: {one['records']} rows, {_process(one)}")
        if one["alone"]:
            lines.append(f"  goes through frame {one['alone']} record by record")
    lines.append(f"recovery: {_process(report['recovery'])}")
    lines += _spooled(report["recovery"]["spool"]["bytes"], " of sources that aren't configured")
    if "directory" in report:
        lines.append(f"files: {report['directory']}")
    lines += _log(**report["log"]) if "log" in report else []  # an older instance says nothing
    if (report.get("keeper") or {}).get("sockets"):
        lines += _keeper(report["keeper"])
    if report["last_error"]:
        lines.append(f"last error ({report['last_error_at']}): {report['last_error']}")
    return "\n".join(lines)


def _state(children: list[ChildState], stopping: bool, paused: bool) -> str:
    if stopping:
        return "stopping"
    unwell = any(c.waiting_for or c.refusing or c.pid is None for c in children if not c.gone)
    spooled = any(child.gauge.get("spool_bytes") for child in children)
    return "degraded" if unwell or spooled or paused else "healthy"


def _queue(recovery: ChildState) -> dict[str, Any]:
    return {
        "frames": recovery.gauge.get("queue_frames"),
        "bytes": recovery.gauge.get("queue_bytes"),
        "busy": recovery.gauge.get("queue_busy"),
        "waiting_for": recovery.waiting_for,
    }


def _lag_s(subscribers: list[ChildState], queue: dict[str, Any], now: float) -> float | None:
    """How long the oldest record that isn't stored has been here; None if nobody knows.

    Frames go in their order, so what waits came behind what was stored last.
    """
    in_hand = [at for c in subscribers if (at := c.gauge.get("in_hand_ms")) and not c.gone]
    if not in_hand and not queue["frames"] and not queue["busy"]:
        return 0.0
    stored = [at for c in subscribers if (at := c.gauge.get("stored_ms"))]
    if not in_hand and not stored:
        return None
    return round(max(0.0, now - (min(in_hand) if in_hand else max(stored)) / 1000), 1)


def _last_error(children: list[ChildState], log: Log) -> dict[str, Any]:
    sayers: list[ChildState | Log] = [*children, log]
    newest = max(sayers, key=lambda sayer: sayer.last_error_at)
    if not newest.last_error:
        return {"last_error": "", "last_error_at": None}
    at = datetime.fromtimestamp(newest.last_error_at, UTC)
    return {"last_error": newest.last_error, "last_error_at": at.isoformat(timespec="seconds")}


def _sentence(report: dict[str, Any]) -> str:
    what = {
        "healthy": "collects and stores",
        "degraded": "runs, but something is awaited",
        "stopping": "is stopping",
    }[report["state"]]
    if report["paused"] and report["state"] == "degraded":
        what = f"collects, but {signals.PAUSED}"
    elif report["state"] == "degraded" and report["store"]["refusing"]:
        what = "collects, but all that comes becomes dead letters"
    return f"{report['name']} {what} (pid {report['pid']}, since {report['since']})."


def _source(child: ChildState, per_s: PerSecond) -> dict[str, Any]:
    gauge = child.gauge
    return {
        "type": child.type,
        "pid": child.pid,
        "restarts": child.restarts,
        "connections": gauge.get("connections"),
        "records": gauge.get("records"),
        "bytes": gauge.get("bytes"),
        "per_s": round(per_s(_counter(child)), 1),
        "held": child.held,
        "at_risk": {
            "records": gauge.get("at_risk_records"),
            "bytes": gauge.get("at_risk_bytes"),
        },
        "spool": {"bytes": gauge.get("spool_bytes")},
        "dropped": gauge.get("dropped"),
        "waiting_for": child.waiting_for,
    }


def _subscribers(children: list[ChildState]) -> list[dict[str, Any]]:
    rows = [_subscriber(child) for child in children if not child.gone]
    return sorted(rows, key=lambda row: int(row["n"]))


def _subscriber(child: ChildState) -> dict[str, Any]:
    return {
        "n": int(child.name),
        "pid": child.pid,
        "restarts": child.restarts,
        "records": child.gauge.get("records"),
        "waiting_for": child.waiting_for,
        "alone": child.alone,
    }


def _process(row: dict[str, Any]) -> str:
    alive = f"pid {row['pid']}" if row["pid"] else "not running now"
    return f"{alive}, {row['restarts']} restarts"


def _keeper(keeper: dict[str, Any]) -> list[str]:
    lines = [f"keeper: {keeper['sockets']} sockets, {_process(keeper)}"]
    if not keeper["holds"]:
        lines.append("  it doesn't answer: if the parent is killed now, senders are cut")
    return lines


def _behind(lag_s: float | None) -> str:
    return "nothing stored yet" if lag_s is None else f"{lag_s:g} s behind"


def _log(lost: int, error: str) -> list[str]:
    why = f": {error}" if error else ", it is written again"
    return [f"log: {lost} lines are lost{why}"] if lost else []


def _spooled(size: int, of: str = "") -> list[str]:
    return [f"  {size} bytes{of} wait in the spool for the queue"] if size else []


def _waits(text: str) -> list[str]:
    if text == signals.PAUSED:
        return [f"  {text}"]
    return [f"  waiting for {text}"] if text else []
