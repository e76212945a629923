"""What a run has shown, as a short table."""

from collections import Counter

from tests.torture.run import MIB, Report


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
    pauses = {name: f"{pause:.1f} s" for name, pause in report.longest_pauses_s.items()}
    lines.append("longest pause of a sender      " + _pairs(pauses))
    memory = {title: f"{used / MIB:.0f} MiB" for title, used in sorted(report.memory.items())}
    lines.append("memory at most                 " + _pairs(memory))
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


def _pairs(pairs: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(pairs.items()))
