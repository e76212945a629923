"""What a run has shown, as a short table."""

from collections import Counter

from tests.torture.faults import Outage
from tests.torture.run import MIB, Report

BEHIND_S = 2.0  # so much of the stream isn't stored yet when all is well


def table(report: Report) -> str:
    """The table: faults by kind, records, pauses, memory, and what was wrong."""
    account, order = report.account, report.order
    lines = [f"seed {order.seed}, {report.lasted_s:.0f} s, {order.rate:.0f} records/s"]
    lines += _faults(report)
    for label, count in (
        ("sent", account.sent),
        ("stored", account.stored),
        ("refused by a killed parent", account.refused),
        ("broken off by the sender", account.cut),
        ("lost", account.counts.get("lost", 0)),
        ("doubled", account.counts.get("doubled", 0)),
        ("changed", account.counts.get("changed", 0)),
        ("lines in the log", report.log_lines),
        ("starts refused on a full disk", report.refused_starts),
    ):
        lines.append(f"{label:30} {count:12,}")
    audits = {f"exit {code}": f"{count} times" for code, count in report.audits.items()}
    lines.append("audits                         " + _pairs(audits))
    pauses = {
        name: f"{pause_s:.1f} s (until {ended_s:.0f} s)"
        for name, (pause_s, ended_s) in report.longest_pauses.items()
    }
    lines.append("longest pause of a sender      " + _pairs(pauses))
    memory = {title: f"{used / MIB:.0f} MiB" for title, used in sorted(report.memory.items())}
    lines.append("memory at most                 " + _pairs(memory))
    lines += [_outage(report, outage) for outage in report.outages]
    lines += [f"WRONG: {problem}" for problem in report.problems]
    if report.kept:
        lines.append(f"all that is left is in {report.kept}")
    return "\n".join(lines)


def _faults(report: Report) -> list[str]:
    by_kind: dict[str, Counter[str]] = {}
    for (kind, target), count in report.done.items():
        by_kind.setdefault(kind, Counter())[target] += count
    lines = [
        f"{kind:9} {sum(targets.values()):5}  {_pairs({k: str(n) for k, n in targets.items()})}"
        for kind, targets in sorted(by_kind.items())
    ]
    missed = sum(report.missed.values())
    return [*lines, f"{'missed':9} {missed:5}"] if missed else lines


def _outage(report: Report, outage: Outage) -> str:
    """What a long outage has cost: memory before, in and after it, and time to catch up."""
    parts = {
        "before": (0.0, outage.began_s),
        "during": (outage.began_s, outage.over_s),
        "after": (outage.over_s, float("inf")),
    }
    memory = {
        name: max((sum(s.memory.values()) for s in report.samples if lo <= s.at_s < hi), default=0)
        for name, (lo, hi) in parts.items()
    }
    took = ", ".join(f"{name} {used / MIB:.0f} MiB" for name, used in memory.items())
    near = BEHIND_S * report.order.rate
    after = [s for s in report.samples if s.at_s >= outage.over_s]
    behind = next((s for s in after if s.stored >= s.sent - near), None)
    caught_up = f"{behind.at_s - outage.over_s:.0f} s" if behind else "at the end"
    lasted = outage.over_s - outage.began_s
    fault = outage.fault
    return f"{fault.kind} {fault.target} for {lasted:.0f} s: all {took}; caught up in {caught_up}"


def _pairs(pairs: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(pairs.items()))
