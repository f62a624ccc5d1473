"""`vigil config`: what is wrong with the settings, and which are in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from config import ConfigError
from config.errors import EXIT_CONFIG
from config.secrets import mask, mask_uri
from config.settings import Settings
from config.sources import exposes_secrets
from console.loading import EXPOSED, SettingsLoader

__all__ = ["config"]


@click.group()
def config() -> None:
    """Check and show the settings.

    \b
    vigil config check                 ./vigil.yaml, the environment and the flags
    vigil config check site.yaml       every error with file and line; exit status 78
    vigil config show                  what is in force, secrets masked
    """


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def check(ctx: click.Context, file: Path | None) -> None:
    """Print everything that is wrong with the settings.

    \b
    vigil config check
    vigil config check site.yaml && systemctl restart vigil
    """
    load: SettingsLoader = ctx.obj
    settings, errors = load.check(file=file)
    if settings is not None:
        errors = _bus_errors(settings)
    if settings is None or errors:
        for error in errors:
            click.echo(f"vigil: {error}", err=True)
        count = f"{len(errors)} error" + ("s" if len(errors) > 1 else "")
        click.echo(f"{count} in {file or load.file or 'flags and environment'}", err=True)
        ctx.exit(EXIT_CONFIG)
    if (site_file := file or load.file) is not None and exposes_secrets(site_file):
        click.echo(f"vigil: warning: {EXPOSED.format(file=site_file)}", err=True)
    click.echo(mask(f"ok: {_summary(settings, site_file)}"))


def _bus_errors(settings: Settings) -> list[ConfigError]:
    """What only the bus knows: names of topics, and whether the broker's address can be used."""
    from broker import connect

    try:
        connect(settings, "check")
    except ConfigError as error:
        return [error]
    return []


def _summary(settings: Settings, file: Path | None) -> str:
    cameras = ", ".join(settings.cameras) or "none (`vigil up` brings a synthetic one)"
    model = settings.detector.model or "the model cache, else HOG"
    sink = f"Kafka at {settings.bridge.kafka.bootstrap}" if settings.bridge.kafka else "the journal"
    return (
        f"{file or 'no site file'}: site {settings.site}, node {settings.node}; cameras: {cameras}; "
        f"bus: {settings.bus.url}; model: {model}; escalations go to {sink}"
    )


@config.command()
@click.pass_context
def show(ctx: click.Context) -> None:
    """Print the settings in force as YAML, secrets masked.

    \b
    vigil config show
    VIGIL_BUS__URL=mqtt://broker.local vigil config show
    """
    import yaml

    load: SettingsLoader = ctx.obj
    settings = load()
    click.echo(yaml.safe_dump(_masked(settings.model_dump(mode="json")), sort_keys=False), nl=False)


def _masked(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask_uri(value) if isinstance(value, str) else value
