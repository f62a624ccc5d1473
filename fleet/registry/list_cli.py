"""`vigil camera list|show`: what the files say of cameras, and what their nodes say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from broker.messages import CameraDocument, CameraState
from config import ConfigError, TransientError
from config.registry import CameraEntry, Login
from config.settings import Settings
from config.text import printable
from fleet.registry.documents import camera_document, says_the_same
from fleet.registry.folder import Held, RegistryFolder
from fleet.registry.options import camera_argument, quiet
from fleet.registry.sight import Sight

__all__ = ["CameraRow", "list_", "show"]

Load = Callable[[Mapping[str, Any]], Settings]


class CameraRow(msgspec.Struct, frozen=True, kw_only=True):
    """One camera, as its file and its node see it.

    Attributes:
        state: ``online``, ``offline`` or ``error`` as its node says; ``excluded``; ``broken`` is its file; ``new``
            where no node has said anything yet; empty where there is no broker to ask.
        node: who watches it now, else who is to.
        listed: it is in the registry; else only its node's site file names it.
        published: whether the bus says of it what the file says; None where there is no broker to ask.
        error: of its node, or of its file.
    """

    camera: str
    state: str
    name: str = ""
    area: str = ""
    node: str = ""
    pool: str = ""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    mode: str = ""
    source: str = ""
    username: str = ""
    listed: bool = True
    published: bool | None = None
    error: str = ""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(load: Load, *, as_json: bool) -> None:
    """List the cameras of the registry, with what their nodes say of them.

    Without a broker it lists what the files say.

    \b
    Examples:
      vigil camera list
      vigil camera list --json | jq -r 'select(.state == "error") | .camera'

    Exit status: 0 all files can be used, 78 some are broken.
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    states, documents, away = _asked(settings)
    rows = _rows(folder, states, documents)
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row))
    else:
        _show_rows(rows, settings)
        if away:
            click.echo(f"{away}; this is what the files say", err=True)
    if any(row.state == "broken" for row in rows):
        raise click.exceptions.Exit(ConfigError.exit_code)


def _asked(settings: Settings) -> tuple[dict[str, CameraState], Mapping[str, CameraDocument] | None, str]:
    """What the bus says: states, and documents; None for these, and why, without a broker."""
    try:
        with Sight(settings) as sight:
            sight.wait_known()
            return sight.states, sight.facts.cameras, ""
    except TransientError as error:
        return {}, None, str(error)


def _rows(
    folder: RegistryFolder, states: Mapping[str, CameraState], documents: Mapping[str, CameraDocument] | None
) -> list[CameraRow]:
    registry = folder.read()
    try:
        logins = folder.logins()
    except ConfigError:
        logins = {}
    broken = {trouble.name for trouble in registry.troubles if trouble.kind == "camera"}
    rows = [_row(held, states.get(name), documents, logins.get(name)) for name, held in registry.cameras.items()]
    rows += [
        CameraRow(
            camera=name,
            state=state.state,
            node=state.node,
            fps=round(state.fps, 2),
            source=state.source,
            listed=False,
            error=state.error or "",
        )
        for name, state in states.items()
        if name not in registry.cameras and name not in broken
    ]
    rows += [
        CameraRow(camera=trouble.name, state="broken", error=str(trouble.error))
        for trouble in registry.troubles
        if trouble.kind == "camera"
    ]
    return sorted(rows, key=lambda row: row.camera)


def _row(
    held: Held[CameraEntry],
    state: CameraState | None,
    documents: Mapping[str, CameraDocument] | None,
    login: Login | None,
) -> CameraRow:
    entry = held.entry
    said = "" if documents is None else "new" if state is None else state.state
    published = documents and says_the_same(camera_document(held.name, entry, 0), documents.get(held.name))
    return CameraRow(
        camera=held.name,
        state="excluded" if entry.excluded else said,
        name=entry.name,
        area=entry.area,
        node=(state and state.node) or entry.node or "",
        pool=entry.pool or "",
        fps=round(state.fps, 2) if state else 0.0,
        width=state.width if state else 0,
        height=state.height if state else 0,
        mode=state.mode if state else "",
        source=entry.source,
        username=login.username if login else "",
        published=None if documents is None else bool(published),
        error=(state and state.error) or "",
    )


def _show_rows(rows: Sequence[CameraRow], settings: Settings) -> None:
    if not rows:
        click.echo(f"no cameras in {settings.fleet.registry}: add one with `vigil camera add NAME`")
        return
    lines = [("CAMERA", "STATE", "NODE", "FPS", "AREA", "SOURCE")]
    lines += [
        (
            row.camera,
            row.state or "?",
            row.node or (f"pool {row.pool}" if row.pool else "-"),
            f"{row.fps:g}" if row.state == "online" else "-",
            row.area or "-",
            row.source or "-",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    for line, about in zip(lines, [None, *rows], strict=True):
        padded = "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=False))
        click.echo(printable(f"{padded}  {line[-1]}".rstrip(), 300))
        if about is not None and about.error:
            for words in about.error.splitlines():
                click.echo(printable(f"    {words}", 500))
        if about is not None and not about.listed:
            click.echo(f"    not in the registry: the site file of {about.node} names it, or did")
        if about is not None and about.published is False:
            click.echo("    the bus does not say so yet: `vigil registry sync`")


@click.command()
@camera_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(load: Load, *, camera: str, as_json: bool) -> None:
    """Show a camera: how it is, and its file.

    \b
    Examples:
      vigil camera show yard
      vigil camera show yard --json

    Exit status: 0 shown, 1 there is none of that name, 78 its file is broken.
    """
    settings = load({})
    quiet(settings)
    folder = RegistryFolder(settings.fleet.registry)
    held = folder.camera(camera)
    states, documents, away = _asked(settings)
    row = _row(held, states.get(camera), documents, folder.logins().get(camera))
    if as_json:
        content = msgspec.to_builtins(row) | {
            "file": str(held.file),
            "etag": held.etag,
            "entry": held.entry.model_dump(mode="json", exclude_unset=True),
        }
        click.echo(msgspec.json.encode(content))
        return
    lines = {
        "state": _words(row) if not away else f"? ({away})",
        "login": f"{row.username}, password known" if row.username else "",
        "published": "" if row.published is None else "yes" if row.published else "no: `vigil registry sync`",
        "file": str(held.file),
    }
    for key, text in lines.items():
        if text:
            click.echo(f"{key:<10} {printable(text, 1000)}")
    click.echo("")
    click.echo(held.text.rstrip("\n"))


def _words(row: CameraRow) -> str:
    """How a camera is, in a line."""
    if row.state == "online":
        where = f" on {row.node}" if row.node else ""
        return f"online{where}: {row.width}x{row.height}, {row.fps:g} frames a second, mode {row.mode}"
    return f"{row.state}: {row.error}" if row.error else row.state
