"""The bus's commands: `vigil broker run`, `vigil topics`, `vigil doctor`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.documents import asyncapi_document, stale_documents, topics_page, write_documents
from broker.overrides import in_force
from broker.scrape import scraped
from broker.servers.gate import authority_folder
from broker.topics import CONTRACT, OUTSIDE, ROOT, PayloadKind
from config.errors import ConfigError
from config.settings import Settings
from config.supervise import stop_on_signals

if TYPE_CHECKING:
    from broker.doctor import Finding
    from broker.members import CaFolder

__all__ = ["broker", "doctor", "topics"]

Load = Callable[[Mapping[str, Any]], Settings]

_CALLED = {PayloadKind.JPEG: "JPEG", PayloadKind.JSON: "JSON"}


@click.group()
def broker() -> None:
    """Run a broker on this machine."""


@broker.command()
@click.option("--engine", type=click.Choice(["embedded", "mosquitto"]), help="Which broker.  [default: embedded]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port without TLS.  [default: 1883]")
@click.option("--secure", is_flag=True, default=None, help="TLS, and only with a certificate of the site.")
@click.option("--secure-port", type=click.IntRange(1, 65535), help="TLS port for processes.  [default: 8883]")
@click.option("--people-port", type=click.IntRange(1, 65535), help="TLS port for people.  [default: 8884]")
@click.pass_obj
def run(load: Load, /, **given: str | int | bool | None) -> None:
    """Run a broker until it is stopped.

    The embedded one needs nothing but Python and is made for loopback. Mosquitto is what a site runs: its
    configuration is generated, and it is started again when it dies.

    With --secure (or `broker.secure: true`) everybody shows a certificate of the site's authority, made once by
    `vigil ca init` on this machine. Who was enrolled or revoked is let in or shut out while it runs.

    \b
    Examples:
      vigil broker run
      vigil broker run --engine mosquitto --port 1884
      vigil broker run --engine mosquitto --secure --host 0.0.0.0
    """
    settings = load({"broker": {key: value for key, value in given.items() if value is not None}})
    authority = authority_folder(settings)
    stop = threading.Event()
    stop_on_signals(stop)
    with scraped(settings, "broker", child="mosquitto"):
        _run(settings, authority, stop)


def _run(settings: Settings, authority: CaFolder | None, stop: threading.Event) -> None:
    if settings.broker.engine == "embedded":
        try:
            from broker.servers.embedded import run_embedded
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the embedded broker needs the package {error.name}: pip install 'vigil-mesh[embedded]', "
                "or use --engine mosquitto",
                field="broker.engine",
            ) from error
        run_embedded(settings.broker, stop, authority)
    else:
        from broker.servers.mosquitto import run_mosquitto

        run_mosquitto(settings.broker, settings.state_dir / "mosquitto", stop, authority)


@click.command()
@click.option("--markdown", "form", flag_value="markdown", help="Print docs/topics.md.")
@click.option("--asyncapi", "form", flag_value="asyncapi", help="Print docs/asyncapi.yaml.")
@click.option(
    "--write", type=click.Path(file_okay=False, path_type=Path), help="Write both and all schemas into this folder."
)
@click.option(
    "--check", type=click.Path(file_okay=False, path_type=Path), help="Exit 1 when those in this folder are stale."
)
@click.pass_obj
def topics(load: Load, form: str | None, write: Path | None, check: Path | None) -> None:
    """Print the contract: every topic, its payload, QoS, retain and delivery class.

    QoS and retain are those in force, overrides of the configuration included.

    \b
    Examples:
      vigil topics
      vigil topics --asyncapi > asyncapi.yaml
      vigil topics --check docs
    """
    if form is not None:
        click.echo(topics_page() if form == "markdown" else asyncapi_document(), nl=False)
    elif write is not None:
        for path in write_documents(write):
            click.echo(f"wrote {path}")
    elif check is not None:
        stale = stale_documents(check)
        for path in stale:
            click.echo(f"{path} is stale: run `vigil topics --write {check}`", err=True)
        if stale:
            raise SystemExit(1)
        click.echo(f"{check}: topics.md, asyncapi.yaml and the schemas say what the contract says")
    else:
        _print_table(load({}))


def _print_table(settings: Settings) -> None:
    rows = [("topic", "payload", "QoS", "retain", "class", "from", "to")]
    changed = [False]
    for spec in CONTRACT + OUTSIDE:
        qos, retain = in_force(spec, settings.bus.delivery)
        payload = spec.payload.__name__ if spec.payload else "/".join(spec.words) or _CALLED[spec.kind]
        kept = "yes" if retain else "no"
        writers, readers = ", ".join(spec.writers), ", ".join(spec.readers)
        rows.append((spec.pattern, payload, str(qos), kept, str(spec.delivery), writers, readers))
        changed.append(spec.name in settings.bus.delivery)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    click.echo(f"below {ROOT}/{settings.site}; those that begin with {{prefix}} are other systems'\n")
    for row, marked in zip(rows, changed, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(f"{line}  (changed by bus.delivery)" if marked else line)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, for programs.")
@click.pass_obj
def doctor(load: Load, as_json: bool) -> None:
    """Check this machine and its broker, and say what to do about each finding.

    The broker is looked at as a client sees it: some seconds, at most some 3 MB, and only on a topic of this machine's
    own. With `mqtts://` it comes with the certificate `doctor` that each node has.

    \b
    Examples:
      vigil doctor
      vigil --bus mqtt://10.0.0.2:1883 doctor
      vigil doctor --json | jq '.[] | select(.level != "ok")'

    Exit status: 0 nothing is bad, 1 something is.
    """
    from broker.doctor import examine

    findings = examine(load({}))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print_findings(findings)
    if any(finding.level == "bad" for finding in findings):
        raise SystemExit(1)


def _print_findings(findings: Sequence[Finding]) -> None:
    mark = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "red")}
    for finding in findings:
        text, colour = mark[finding.level]
        click.echo(f"{click.style(text, fg=colour)}  {finding.subject}: {finding.text}")
