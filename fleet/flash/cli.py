"""`vigil flash`: an operating system's image becomes the card of a node."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from config import configure_logging
from config.clock import SystemClock
from config.errors import ConfigError, PermanentError
from config.files import move_into_place, write_atomically
from config.names import check_name
from config.settings import Settings
from fleet.bundle.build import BundleOrder, build_bundle
from fleet.bundle.manifest import FamilyName, Manifest
from fleet.bundle.verify import verify_bundle
from fleet.flash.asking import asked_user, asked_wifi, read_cameras
from fleet.flash.card import NodeCard
from fleet.flash.device import Device, find_device, unmount
from fleet.flash.family import FORMATS, Family, Format
from fleet.flash.imager import MANIFEST_SUFFIX, file_sha256, imager_manifest
from fleet.flash.invitation import Inviter, find_inviter
from fleet.flash.prepare import Prepared, check_image, image_family, prepare
from fleet.flash.source import ImageSource, unpack
from fleet.flash.summary import Written, summary
from fleet.flash.writer import write

__all__ = ["flash"]

Load = Callable[[Mapping[str, Any]], Settings]

_FILE = click.Path(dir_okay=False, path_type=Path)
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the card goes.

    Attributes:
        out: the file; None: a device.
        device: its path; None: a file.
        serial: what the device's serial number must be, where nobody is asked.
        work: folder for the image on its way to a device.
        has_manifest: make the file known to Raspberry Pi Imager.
    """

    out: Path | None
    device: Path | None
    serial: str | None
    work: Path
    has_manifest: bool


@click.command()
@click.option("--image", "place", metavar="FILE|URL", required=True, help="Raspberry Pi OS: .img, .img.xz or .img.gz.")
@click.option("--sha256", metavar="HEX", default="", help="What that file must be.  [default: FILE.sha256 beside it]")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="How its first boot is told what to do, where the image does not say.",
)
@click.option("--node", metavar="NAME", help="The node's name, which is its host name too.")
@click.option(
    "--role",
    "roles",
    metavar="ROLE",
    multiple=True,
    help="What it may run, as edge or detector; again for more.  [default: edge]",
)
@click.option(
    "--camera", "cameras", metavar="NAME[=SOURCE]", multiple=True, help="A camera that it watches; again for more."
)
@click.option(
    "--bundle", metavar="FILE", type=_FILE, help="All that is installed at first boot; else it needs the internet."
)
@click.option("--site", metavar="NAME", help="The site.  [default: that of the authority on this machine]")
@click.option("--authority", "address", metavar="HOST[:PORT]", help="Where it enrols.  [default: this machine]")
@click.option("--broker", metavar="URL", help="The site's broker.  [default: mqtts:// on the authority's machine]")
@click.option("--token-file", metavar="FILE", type=_FILE, help="A token of `vigil enrol`.  [default: made here]")
@click.option(
    "--valid-days",
    type=click.IntRange(1, 365),
    default=30,
    show_default=True,
    help="Days that a token made here holds; it lets one node in, once.",
)
@click.option("--wifi", "ssid", metavar="SSID", help="Its wireless network; the password is asked for.")
@click.option("--country", metavar="CC", help="Where it is used: DE, US ...")
@click.option("--wifi-open", is_flag=True, help="That network has no password.")
@click.option("--wifi-hidden", is_flag=True, help="That network does not tell its name.")
@click.option("--user", metavar="NAME", help="Who may log in.")
@click.option("--ssh-key", "keys", metavar="FILE", type=_FILE, multiple=True, help="That user's public key.")
@click.option("--password", "has_password", is_flag=True, help="Ask for a password of that user.")
@click.option("--ssh/--no-ssh", "has_ssh", default=None, help="Let people log in over ssh.  [default: with --ssh-key]")
@click.option("--time-zone", metavar="ZONE", default="", help="Europe/Berlin ...")
@click.option("--locale", metavar="NAME", default="", help="en_GB.UTF-8 ...")
@click.option("--keymap", metavar="NAME", default="", help="de, gb, us ...")
@click.option("--config-txt", metavar="LINE", multiple=True, help="For the firmware, such as dtoverlay=imx708.")
@click.option("--out", metavar="FILE", type=_FILE, help="Write this file.  [default: NAME.img]")
@click.option("--manifest", "has_manifest", is_flag=True, help="Make that file known to Raspberry Pi Imager.")
@click.option("--device", metavar="PATH", type=_FILE, help="Write over this disk instead: /dev/sdX. Linux, as root.")
@click.option("--as-is", is_flag=True, help="The image is finished: write it onto the disk and read it back.")
@click.option("--yes", is_flag=True, help="Do not ask before a disk is written over; needs --expect-serial.")
@click.option("--expect-serial", "serial", metavar="SERIAL", help="What the disk's serial number must be.")
@click.option(
    "--work",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the image is unpacked on its way to a disk.  [default: the folder for temporary files]",
)
@click.option("--json", "as_json", is_flag=True, help="Tell what was written as one JSON object.")
@click.pass_obj
def flash(load: Load, /, **options: Any) -> None:  # noqa: ANN401 - as click hands them over
    """Make the card of a node: flash it, put it in, and the node is there.

    Takes an image of Raspberry Pi OS and puts a node's name, network, users, token and Vigil onto its boot partition.
    At its first boot the node installs that, enrols with a key that it makes itself, and shows up in `vigil node list`.
    With --bundle (`vigil bundle build`) it needs no internet for that. What went wrong stands in vigil/firstboot.log
    on the card.

    The result is a file, unless --device names a disk. The password of a wireless network is asked for, or taken from
    VIGIL_WIFI_PASSWORD (a user's from VIGIL_USER_PASSWORD); on the card is only the key that it makes.

    \b
    Examples:
      vigil flash --image 2025-12-04-raspios-trixie-arm64-lite.img.xz --node porch --bundle vigil-arm64.tar
      vigil flash --image trixie.img.xz --node porch --camera yard --wifi Garden --country DE \\
          --user alex --ssh-key ~/.ssh/id_ed25519.pub --out porch.img
      vigil flash --image trixie.img.xz --node porch --device /dev/sdb
      sudo vigil flash --image porch.img --as-is --device /dev/sdb        what somebody without sudo has made
      vigil flash --image trixie.img.xz --node porch --authority 10.0.0.2 --token-file porch.token
    """
    settings = load({})
    configure_logging(settings.log.level, settings.log.style, stream=sys.stderr)
    target = _target(options)
    source = ImageSource(options["place"], options["sha256"])
    if options["as_is"]:
        _write_as_is(source, target)
        return
    inviter = find_inviter(
        settings,
        site=options["site"],
        address=options["address"],
        broker=options["broker"],
        token_file=options["token_file"],
        valid_s=options["valid_days"] * _DAY_S,
    )
    draft = _draft(options, inviter)
    if "armhf" in source.name:
        raise ConfigError(f"{source.name} is a 32-bit system, and Vigil needs one of 64 bits: arm64", field="--image")
    bundle = _checked_bundle(draft, inviter)
    written = _flash(source, draft, inviter, target, (options["form"], bundle))
    text = json.dumps(asdict(written), default=str) if options["as_json"] else summary(written)
    click.echo(text)


def _target(options: Mapping[str, Any]) -> _Target:
    out, device, serial = options["out"], options["device"], options["serial"]
    if options["as_is"] and (device is None or options["node"] is not None):
        raise click.UsageError("--as-is writes a finished image onto --device, and makes no node")
    if options["node"] is None and not options["as_is"]:
        raise click.UsageError("say whose card it is: --node NAME")
    if device is not None and (out is not None or options["has_manifest"]):
        raise click.UsageError("--device writes a disk; --out and --manifest belong to a file")
    if options["yes"] != (serial is not None):
        raise click.UsageError(
            "--yes and --expect-serial belong together: without a question the serial number decides"
        )
    if options["yes"] and device is None:
        raise click.UsageError("--yes belongs to --device")
    if device is None:
        out = out or Path(f"{options['node']}.img")
        if out.exists():
            raise ConfigError(f"{out} is there already: remove it, or choose another name", field="--out")
        return _Target(out, None, None, out.absolute().parent, options["has_manifest"])
    find_device(device, 0)  # now, not after minutes of unpacking
    return _Target(None, device, serial, options["work"] or Path(tempfile.gettempdir()), has_manifest=False)


def _write_as_is(source: ImageSource, target: _Target) -> None:
    with _work_file(target.work, "as-is") as work:
        _unpack(source, work)
        check_image(work)
        sha256 = _to_device(work, target)
    click.echo(f"{target.device} holds {source.name}, SHA-256 {sha256} (read back)")


def _draft(options: Mapping[str, Any], inviter: Inviter) -> NodeCard:
    """The card, still without its token."""
    for option, value in (("--node", options["node"]), ("--site", inviter.site)):
        try:
            check_name(value)
        except ValueError as error:
            raise ConfigError(str(error), field=option) from error
    user = asked_user(options["user"], options["keys"], has_password=options["has_password"])
    has_ssh = options["has_ssh"] if options["has_ssh"] is not None else bool(options["keys"])
    return NodeCard(
        node=options["node"],
        site=inviter.site,
        authority=inviter.address,
        token="",
        broker=inviter.broker,
        roles=tuple(options["roles"]) or ("edge",),
        cameras=read_cameras(options["cameras"]),
        wifi=asked_wifi(
            options["ssid"], options["country"], is_open=options["wifi_open"], is_hidden=options["wifi_hidden"]
        ),
        user=user,
        has_ssh=has_ssh,
        time_zone=options["time_zone"],
        locale=options["locale"],
        keymap=options["keymap"],
        config_txt=tuple(options["config_txt"]),
        bundle=options["bundle"],
    )


def _checked_bundle(draft: NodeCard, inviter: Inviter) -> Manifest | None:
    """What is in the bundle.

    Raises:
        ConfigError: it is for another machine, or the node is to be what it does not bring.
        PermanentError: it is damaged, or not of this site.
    """
    if draft.bundle is None:
        return None
    bundle = verify_bundle(draft.bundle, inviter.certificate)
    if bundle.architecture != "arm64":
        raise ConfigError(f"{draft.bundle} is for {bundle.architecture}; a Raspberry Pi takes arm64", field="--bundle")
    missing = sorted({role.partition(".")[0] for role in draft.roles} - set(bundle.roles))
    if missing:
        raise ConfigError(
            f"{draft.bundle} brings {', '.join(bundle.roles)}, and not {', '.join(missing)}: build one with "
            f"`vigil bundle build --role {missing[0]}`",
            field="--bundle",
        )
    return bundle


def _check_release(family: Family, bundle: Manifest | None) -> None:
    """Refuse what would fail only when the node boots: packages of one release on another."""
    release = _release(family, "")
    if bundle is not None and not family.is_asked and bundle.family != release:
        raise ConfigError(
            f"the bundle is for {bundle.family}, and the image is {release}: `vigil bundle build --for {release}` "
            "makes the right one",
            field="--bundle",
        )


def _release(family: Family, image: str) -> FamilyName:
    """What the image is a release of; where it does not say its kind of first boot, its file's name may.

    The first Trixie is such an image.
    """
    if family.is_asked:
        return "bookworm" if "bookworm" in image else "trixie"
    return "trixie" if family.format == "cloud-init" else "bookworm"


def _flash(
    source: ImageSource,
    draft: NodeCard,
    inviter: Inviter,
    target: _Target,
    known: tuple[Format | None, Manifest | None],
) -> Written:
    asked, given = known
    now = SystemClock().now().astimezone()
    with _work_file(target.work, draft.node) as work:
        checked = _unpack(source, work)
        family = image_family(work, asked, now)
        _check_release(family, given)
        with (
            _bundled(draft, given, _release(family, source.name), work) as (bundled, bundle),
            inviter.token(draft.node, draft.roles, tuple(draft.cameras)) as token,
        ):
            card = replace(bundled, token=token)
            prepared = _prepare(work, card, asked, now)
            sha256 = _to_device(work, target) if target.device is not None else _to_file(work, target, card, now)
    return _told(card, inviter, prepared, target, (source.name, checked, sha256, bundle))


@contextmanager
def _bundled(
    draft: NodeCard, given: Manifest | None, release: FamilyName, work: Path
) -> Iterator[tuple[NodeCard, Manifest]]:
    """The card with something to install: what was given, else Vigil alone, and the rest comes from the internet."""
    if given is not None:
        yield draft, given
        return
    online = work.with_suffix(".tar")
    roles = tuple(dict.fromkeys(role.partition(".")[0] for role in draft.roles))
    order = BundleOrder(family=release, roles=roles, is_complete=False)
    try:
        manifest = build_bundle(order, online, SystemClock().now())
        yield replace(draft, bundle=online), manifest
    finally:
        online.unlink(missing_ok=True)


@contextmanager
def _work_file(folder: Path, node: str) -> Iterator[Path]:
    """A place for the image until it is finished; it holds a token, and goes whatever happens."""
    work = folder / f".{node}.{secrets.token_hex(4)}.img"
    try:
        yield work
    finally:
        work.unlink(missing_ok=True)


def _unpack(source: ImageSource, work: Path) -> str:
    with click.progressbar(length=1, label=f"reading {source.name}", file=sys.stderr) as bar:

        def show(done: int, size: int | None) -> None:
            bar.length = max(size or done + 1, 1)
            bar.update(done - bar.pos)

        return unpack(source, work, show)


def _prepare(work: Path, card: NodeCard, asked: Format | None, now: datetime) -> Prepared:
    length = card.bundle.stat().st_size if card.bundle is not None else 0
    with click.progressbar(length=max(length, 1), label="writing the node's files", file=sys.stderr) as bar:
        return prepare(work, card, asked=asked, now=now, on_progress=bar.update)


def _to_file(work: Path, target: _Target, card: NodeCard, now: datetime) -> str:
    """Give the finished image its name; it is never seen half written."""
    out = target.out or work
    try:
        with work.open("rb+") as file:
            os.fsync(file.fileno())
        if out.exists():
            raise ConfigError(f"{out} has come while it was written: choose another name", field="--out")
        move_into_place(work, out.absolute())
        sha256 = file_sha256(out)
        if target.has_manifest:
            text = imager_manifest(out, node=card.node, site=card.site, sha256=sha256, now=now)
            write_atomically(out.absolute().with_suffix(MANIFEST_SUFFIX), text, mode=0o644)
    except OSError as error:
        raise PermanentError(f"{error.filename or out} cannot be written: {error.strerror}") from error
    return sha256


def _to_device(work: Path, target: _Target) -> str:
    """Write over a disk, after a person or its serial number has said so.

    Raises:
        ConfigError: it may not be written over, or is another one than was confirmed.
        click.Abort: the person said no.
    """
    path = target.device or Path()
    size_bytes = work.stat().st_size
    device = find_device(path, size_bytes)
    click.echo(f"ALL that is on this disk will be lost:\n\n{device.describe()}\n", err=True)
    _confirm(device, target.serial)
    unmount(device)
    again = find_device(path, size_bytes)
    if again.identity != device.identity or again.mounts:
        raise ConfigError(
            f"{path} is another disk than the one that was confirmed, or something has mounted it again: nothing was "
            "written",
            field="--device",
        )
    real = Path(again.block.path)
    with click.progressbar(length=2 * size_bytes, label=f"writing and checking {real.name}", file=sys.stderr) as bar:
        return write(work, real, bar.update, bar.update)


def _confirm(device: Device, serial: str | None) -> None:
    if serial is not None:
        if not device.block.serial or device.block.serial != serial:
            raise ConfigError(
                f"{device.block.path} has the serial number {device.block.serial or '(none)'}, not {serial!r}: nothing "
                "was written",
                field="--expect-serial",
            )
        return
    typed = str(click.prompt(f"type {device.name} to write over it", default="", show_default=False, err=True)).strip()
    if typed != device.name:
        raise ConfigError(f"{typed[:40]!r} is not {device.name}: nothing was written", field="--device")


def _told(
    card: NodeCard,
    inviter: Inviter,
    prepared: Prepared,
    target: _Target,
    facts: tuple[str, str, str, Manifest],
) -> Written:
    image, checked, sha256, bundle = facts
    return Written(
        node=card.node,
        site=card.site,
        roles=card.roles,
        cameras=tuple(card.cameras),
        authority=card.authority,
        broker=card.broker,
        image=image,
        image_is_checked=bool(checked),
        system=prepared.family.name,
        format=prepared.family.format,
        files=tuple(prepared.files),
        bundle=bundle.version,
        has_packages=bundle.is_complete,
        wifi=card.wifi.ssid if card.wifi is not None else "",
        user=card.user.name if card.user is not None else "",
        has_ssh=card.has_ssh,
        written_to=str(target.device or target.out),
        is_device=target.device is not None,
        sha256=sha256,
        token_days=round(inviter.valid_s / _DAY_S) if inviter.authority is not None else None,
        door_is_open=inviter.is_open,
    )
