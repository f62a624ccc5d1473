"""Commands: `vigil bundle build`, `vigil bundle show`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import click
import msgspec

from broker.authority import Authority
from broker.members import ca_folder
from config.clock import SystemClock
from config.names import check_role
from config.settings import Settings
from fleet.bundle.build import BundleOrder, build_bundle
from fleet.bundle.manifest import FAMILIES, Architecture, FamilyName, Manifest
from fleet.bundle.verify import has_signature, verify_bundle

__all__ = ["bundle"]

Load = Callable[[Mapping[str, Any]], Settings]

_FILE = click.Path(dir_okay=False, path_type=Path)
_GIVEN = click.Path(dir_okay=False, path_type=Path, exists=True)


@click.group()
def bundle() -> None:
    """All that a node installs, in one file: for a card, or an update, that needs no internet.

    \b
    Examples:
      vigil bundle build --out porch.tar --image raspios-lite.img.xz
      vigil bundle show porch.tar
    """


@bundle.command()
@click.option("--out", metavar="FILE", type=_FILE, required=True, help="The file to write.")
@click.option(
    "--for",
    "family",
    type=click.Choice(list(FAMILIES)),
    default="trixie",
    show_default=True,
    help="Release of the node's Debian or Raspberry Pi OS.",
)
@click.option(
    "--architecture",
    type=click.Choice(get_args(Architecture)),
    default="arm64",
    show_default=True,
    help="Of its processor: arm64 is a Raspberry Pi.",
)
@click.option(
    "--role", "roles", metavar="ROLE", multiple=True, help="What the node may be; again for more.  [default: edge]"
)
@click.option("--extra", "extras", metavar="NAME", multiple=True, help="A further extra of Vigil, such as store.")
@click.option("--image", metavar="FILE", type=_GIVEN, help="The card's image, which says what is installed there.")
@click.option("--online", is_flag=True, help="Only Vigil's own: the node fetches the rest from the internet.")
@click.option("--wheel", metavar="FILE", type=_GIVEN, help="Vigil's wheel, where it is not to be the one that runs.")
@click.pass_obj
def build(
    load: Load,
    *,
    out: Path,
    family: FamilyName,
    architecture: Architecture,
    roles: Sequence[str],
    extras: Sequence[str],
    image: Path | None,
    online: bool,
    wheel: Path | None,
) -> None:
    """Make a bundle: Vigil, the Python packages and the distribution's packages that its roles need.

    Where the site's authority is on this machine, it signs the bundle: updates over the site take no other.

    \b
    Examples:
      vigil bundle build --out porch.tar --image raspios-lite.img.xz      for a card with this system
      vigil bundle build --out gpu.tar --for bookworm --architecture amd64 --role detector
      vigil bundle build --out small.tar --online
    """
    settings = load({})
    for role in roles:
        _check_role(role)
    order = BundleOrder(
        family=family,
        architecture=architecture,
        roles=tuple(roles) or ("edge",),
        extras=tuple(extras),
        is_complete=not online,
        wheel=wheel,
        image=image,
    )
    folder = ca_folder(settings)
    sign = Authority(folder).sign_content if folder.exists else None
    with _Bars() as bars:
        manifest = build_bundle(order, out, SystemClock().now(), sign=sign, tell=bars.tell)
    click.echo(f"wrote {out}, {out.stat().st_size / 1e6:.0f} MB: {_about(manifest)}")
    if sign is None:
        click.echo(
            "It is not signed, since the site's authority is not on this machine: good for a card, while updates over "
            "the site refuse it.",
            err=True,
        )


def _check_role(role: str) -> None:
    try:
        check_role(role)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--role") from error


class _Bars:
    """One progress bar after the other, on standard error."""

    def __init__(self) -> None:
        self._what = ""
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def tell(self, what: str, done: int, total: int) -> None:
        """Show how far it is."""
        if what != self._what:
            self._end()
            self._what, self._done = what, 0
            self._bar = click.progressbar(length=max(total, 1), label=f"{what:<26}", file=sys.stderr)
            self._bar.render_progress()
        self._bar.update(done - self._done)
        self._done = done

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


@bundle.command()
@click.argument("file", type=_GIVEN)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def show(load: Load, *, file: Path, as_json: bool) -> None:
    """Check every byte of a bundle, and say what is in it.

    Where the site's authority is on this machine, a signature must be its own.

    \b
    Examples:
      vigil bundle show porch.tar
      vigil bundle show porch.tar --json | jq .version
    """
    is_signed = has_signature(file)
    folder = ca_folder(load({}))
    manifest = verify_bundle(file, folder.ca.read_bytes() if is_signed and folder.exists else None)
    if as_json:
        click.echo(msgspec.json.encode(manifest))
        return
    click.echo(_about(manifest))
    for what, part in (("Python packages", "wheels/"), ("packages of the distribution", "packages/")):
        held = [one for one in manifest.files if one.name.startswith(part)]
        click.echo(f"  {len(held):4} {what}, {sum(one.size_bytes for one in held) / 1e6:.1f} MB")
    if not is_signed:
        click.echo("  nobody has signed it")
    elif folder.exists:
        click.echo("  signed by this site's authority")
    else:
        click.echo("  signed; by whom can be checked where the site's authority is")


def _about(manifest: Manifest) -> str:
    rest = "" if manifest.is_complete else ", without what the node fetches from the internet"
    return (
        f"Vigil {manifest.version} for {manifest.family} (Python {manifest.python}) on {manifest.architecture}, as "
        f"{', '.join(manifest.roles)}{rest}; built {manifest.built_at:%Y-%m-%d %H:%M}"
    )
