"""`vigil chaos`: break a small mesh in every way that we know of, and count what is lost."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import click
import msgspec

from config import configure_logging, stop_on_signals
from config.durations import DURATION
from console.chaos.clock import find_faketime
from console.chaos.mesh import MeshOptions
from console.chaos.report import told_run, told_runs
from console.chaos.run import ChaosRun, RunReport, RunSpec
from console.chaos.schedule import NETWORK_KINDS, FaultKind

__all__ = ["chaos"]

_SEEDS_MAX = 10_000
_NETWORK = "network"


def _read_seeds(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", value)
    if match is None:
        raise click.BadParameter(f"{value!r}: write a number such as 7, or a range such as 1..20")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + _SEEDS_MAX:
        raise click.BadParameter(f"{value!r}: a range goes up, and has at most {_SEEDS_MAX} seeds")
    return tuple(range(first, last + 1))


def _read_kinds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[FaultKind, ...]:
    if value is None:
        return tuple(FaultKind)
    names = {name.strip() for name in value.split(",")}
    if _NETWORK in names:
        names = (names - {_NETWORK}) | set(NETWORK_KINDS)
    unknown = sorted(names - set(FaultKind))
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join((*FaultKind, _NETWORK))}")
    return tuple(kind for kind in FaultKind if kind in names)


@click.command()
@click.option(
    "--seed", "seeds", default="1", show_default=True, callback=_read_seeds, help="A seed, or several: 1..20."
)
@click.option(
    "--for", "duration_s", type=DURATION, metavar="DURATION", default="60s", help="Of faults.  [default: 60s]"
)
@click.option("--engine", type=click.Choice(["mosquitto", "embedded"]), default="mosquitto", show_default=True)
@click.option("--kafka", metavar="HOST:PORT", help="A Kafka as the sink, in place of the journal.")
@click.option("--rate", type=click.FloatRange(0.1, 1000), default=20.0, show_default=True, help="Escalations a second.")
@click.option("--faults", "kinds", callback=_read_kinds, metavar="KIND,...", help="Only these; `network` is all of it.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Runs side by side.")
@click.option("--list", "only_list", is_flag=True, help="Print the schedule, and run nothing.")
@click.option("--keep", is_flag=True, help="Keep the folder with logs and databases; one that did not hold is kept.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run, and nothing else on standard output.")
def chaos(
    *,
    seeds: tuple[int, ...],
    duration_s: float,
    engine: Literal["mosquitto", "embedded"],
    kafka: str | None,
    rate: float,
    kinds: tuple[FaultKind, ...],
    jobs: int,
    only_list: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Break a small mesh in every way that we know of, and count what is lost.

    Real processes: a broker, an edge with a synthetic camera, a detector, a bridge, and two drills that raise
    escalations and movements all the time, each behind a TCP proxy of its own. A schedule made from the seed kills,
    freezes and restarts them, cuts and slows their networks, fills their disks, sets their clocks. Then everything is
    put right, and after some seconds `vigil audit` and checks of its own look for what is missing or there twice.

    \b
    Examples:
      vigil chaos
      vigil chaos --seed 7 --for 2m --engine embedded
      vigil chaos --seed 1..20 --jobs 2 --json
      vigil chaos --seed 7 --faults kill,freeze,network --keep
      vigil chaos --seed 7 --list

    \b
    Faults: kill, freeze, restart, forget (the broker's data), crash (everything at once), disk, clock (needs
    libfaketime), and network: cut, reset, half-close, stall, black-hole, delay, throttle, repeat.

    Exit status: 0 every run held, 1 one did not; its folder is kept, and the same seed gives the same faults again.
    """
    configure_logging("error", "json", stream=sys.stderr)
    say = _Speaker(to_stderr=as_json)
    if FaultKind.CLOCK in kinds and find_faketime() is None:
        kinds = tuple(kind for kind in kinds if kind is not FaultKind.CLOCK)
        say("libfaketime is not installed, so clocks are left alone: sudo apt-get install libfaketime")
    options = MeshOptions(engine=engine, rate=rate, kafka=kafka)
    specs = [RunSpec(seed, duration_s, kinds, options) for seed in seeds]
    if only_list:
        for spec in specs:
            click.echo(f"seed {spec.seed}")
            for fault in spec.schedule():
                click.echo(fault.told())
        return
    stop = threading.Event()
    stop_on_signals(stop)
    runner = _Runner(stop, say, several=len(specs) > 1 and jobs > 1, keep=keep, as_json=as_json)
    with ThreadPoolExecutor(jobs) as pool:
        reports = [report for report in pool.map(runner.run, specs) if report is not None]
    if len(reports) > 1:
        say("\n".join(told_runs(reports)))
    if stop.is_set():
        raise click.Abort
    if any(report.findings for report in reports):
        raise SystemExit(1)


class _Speaker:
    """Prints whole lines from several threads."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr
        self._lock = threading.Lock()

    def __call__(self, text: str, *, to_stdout: bool = False) -> None:
        with self._lock:
            click.echo(text, err=self._to_stderr and not to_stdout)


class _Runner:
    def __init__(self, stop: threading.Event, say: _Speaker, *, several: bool, keep: bool, as_json: bool) -> None:
        self._stop = stop
        self._say = say
        self._several = several
        self._keep = keep
        self._as_json = as_json

    def run(self, spec: RunSpec) -> RunReport | None:
        """Do one run and tell of it; None when a person has had enough before."""
        if self._stop.is_set():
            return None
        prefix = f"seed {spec.seed}: " if self._several else ""
        folder = Path(tempfile.mkdtemp(prefix=f"vigil-chaos-{spec.seed}-"))
        if not self._several:
            self._say(f"seed {spec.seed} on {spec.options.engine}")
        report = ChaosRun(spec, folder, self._stop, lambda line: self._say(f"{prefix}{line}")).run()
        lines = told_run(report)
        if report.findings or self._keep:
            lines += [f"logs and databases: {folder}"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
        if report.findings:
            lines += [f"the same faults again: {' '.join(_command(spec))}"]
        self._say("\n".join(f"{prefix}{line}" for line in lines))
        if self._as_json:
            self._say(msgspec.json.encode(report).decode(), to_stdout=True)
        return report


def _command(spec: RunSpec) -> Sequence[str]:
    words = ["vigil", "chaos", "--seed", str(spec.seed), "--for", f"{spec.duration_s:g}s"]
    words += ["--engine", spec.options.engine, "--rate", f"{spec.options.rate:g}"]
    if spec.options.kafka is not None:
        words += ["--kafka", spec.options.kafka]
    if set(spec.kinds) != set(FaultKind):
        words += ["--faults", ",".join(spec.kinds)]
    return words
