"""A run as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from console.chaos.checks import Tally
from console.chaos.run import RunReport

__all__ = ["told_run", "told_runs"]


def told_run(report: RunReport) -> list[str]:
    """What was done, what was counted, and the verdict."""
    faults = ", ".join(f"{kind} {count}" for kind, count in report.faults.items()) or "none"
    recovery = "never" if report.recovery_s is None else f"{report.recovery_s:.1f} s"
    return [
        f"{sum(report.faults.values())} faults: {faults}",
        *_table({"escalations": report.escalations, "events": report.events}),
        (
            f"sent again {report.resent}, processes started again {report.restarts}, recovery {recovery}, "
            f"in all {report.took_s:.0f} s"
        ),
        *(f"- {finding}" for finding in report.findings),
        f"{_name(report)}: {_verdict(report)}",
    ]


def told_runs(reports: Sequence[RunReport]) -> list[str]:
    """The sums of several runs."""
    escalations = _sum([report.escalations for report in reports])
    events = _sum([report.events for report in reports])
    broken = [str(report.seed) for report in reports if report.findings or report.interrupted]
    verdict = f"{len(reports)} runs, nothing lost" if not broken else f"did not hold: seed {', '.join(broken)}"
    recoveries_s = [report.recovery_s for report in reports if report.recovery_s is not None]
    return [
        "",
        f"{sum(sum(report.faults.values()) for report in reports)} faults in {len(reports)} runs",
        *_table({"escalations": escalations, "events": events}),
        (
            f"sent again {sum(report.resent for report in reports)}, "
            f"processes started again {sum(report.restarts for report in reports)}, "
            f"longest recovery {max(recoveries_s, default=0.0):.1f} s"
        ),
        verdict,
    ]


def _name(report: RunReport) -> str:
    return f"seed {report.seed} on {report.engine}, {report.duration_s:.0f} s"


def _verdict(report: RunReport) -> str:
    if report.interrupted:
        return "interrupted"
    if report.findings:
        return "did not hold"
    return f"everything that was raised is in {report.sink}, nothing missing, {_repeats(report)}"


def _repeats(report: RunReport) -> str:
    repeated = report.escalations.repeated + report.events.repeated
    return f"{repeated} repeated" if repeated else "nothing repeated"


_COLUMNS = ("raised", "in sink", "missing", "repeated", "waiting", "released")


def _table(rows: dict[str, Tally]) -> list[str]:
    lines = [f"{'':<11}" + "".join(f"{column:>10}" for column in _COLUMNS)]
    for name, sums in rows.items():
        values = (sums.raised, sums.present, sums.missing, sums.repeated, sums.waiting, sums.released)
        lines.append(f"{name:<11}" + "".join(f"{value:>10}" for value in values))
    return lines


def _sum(parts: Sequence[Tally]) -> Tally:
    return Tally(
        raised=sum(part.raised for part in parts),
        present=sum(part.present for part in parts),
        missing=sum(part.missing for part in parts),
        repeated=sum(part.repeated for part in parts),
        waiting=sum(part.waiting for part in parts),
        released=sum(part.released for part in parts),
    )
