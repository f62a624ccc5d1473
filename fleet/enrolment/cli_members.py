"""Members and their rights, on the authority's machine: `vigil grant`, `vigil revoke`, `vigil members`."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from broker.authority import Authority
from broker.members import Member, Roster, ca_folder, load_roster
from config.clock import SystemClock
from config.settings import BrokerSettings, Settings
from fleet.enrolment.membership import cameras_option, rights_option, rights_text, roles_option, tell_shared_cameras

__all__ = ["grant", "members", "revoke"]

Load = Callable[[Mapping[str, Any]], Settings]

_ANSWER_S = 0.5


@click.command()
@click.argument("name")
@roles_option
@click.option("--no-role", "without_roles", metavar="ROLE", multiple=True, help="A role that it loses.")
@cameras_option
@click.option("--no-camera", "without_cameras", metavar="NAME", multiple=True, help="A camera that it loses.")
@rights_option
@click.pass_obj
def grant(
    load: Load,
    *,
    name: str,
    roles: Sequence[str],
    without_roles: Sequence[str],
    cameras: Sequence[str],
    without_cameras: Sequence[str],
    rights: str | None,
) -> None:
    """Change what a member may do. A role that it loses has its certificates revoked.

    \b
    Examples:
      vigil grant porch --camera door --no-camera yard
      vigil grant porch --role detector
      vigil grant alice --rights viewer
    """
    settings = load({})
    authority = Authority(ca_folder(settings))
    before = authority.roster().member(name)
    if before is not None and before.kind == "person" and (roles or without_roles or cameras or without_cameras):
        raise click.UsageError(f"{name} is a person: use --rights")
    if before is not None and before.kind == "node" and rights:
        raise click.UsageError(f"{name} is a node: use --role and --camera")
    if not (roles or without_roles or cameras or without_cameras or rights):
        raise click.UsageError("say what changes: --role, --no-role, --camera, --no-camera or --rights")
    member = authority.grant(
        name,
        roles=(rights,) if rights else tuple(roles),
        cameras=cameras,
        without_roles=without_roles,
        without_cameras=without_cameras,
    )
    tell_shared_cameras(authority.roster(), name, cameras)
    click.echo(f"{name} is now {rights_text(member.roles, member.cameras)}")
    missing = set(member.certificate_roles) - {one.role for one in member.in_force(SystemClock().now())}
    if missing:
        click.echo(f"run `vigil renew` on {name}: it has no certificate yet as {', '.join(sorted(missing))}")
    _tell_broker(authority, settings.broker, f"what {name} may do")


@click.command()
@click.argument("name")
@click.pass_obj
def revoke(load: Load, name: str) -> None:
    """Shut a node or a person out: its certificates are revoked, its rights and its token are gone.

    \b
    Examples:
      vigil revoke porch
    """
    settings = load({})
    authority = Authority(ca_folder(settings))
    member = authority.revoke(name)
    count = sum(1 for one in member.certificates if one.revoked_at is not None)
    click.echo(f"{name} is shut out: {count} certificate{'' if count == 1 else 's'} revoked, no rights left")
    _tell_broker(authority, settings.broker, f"that {name} is shut out")


def _tell_broker(authority: Authority, broker: BrokerSettings, what: str) -> None:
    """Say who will see a change, so that nobody trusts in one that a broker elsewhere never hears of."""
    if _listens(broker.host, broker.secure_port):
        click.echo(f"the broker on this machine (port {broker.secure_port}) sees {what} within seconds")
    else:
        click.echo(
            f"no broker answers on port {broker.secure_port} of this machine: one that starts here sees {what}; "
            f"one elsewhere needs acl, ca.crl and people.crl of {authority.folder.path}"
        )


def _listens(host: str, port: int) -> bool:
    own = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - looked up, not bound
    try:
        with socket.create_connection((own, port), _ANSWER_S):
            return True
    except OSError:
        return False


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def members(load: Load, as_json: bool) -> None:
    """List who belongs to the site, and until when.

    \b
    Examples:
      vigil members
    """
    roster = load_roster(ca_folder(load({})))
    rows = list(_rows(roster, SystemClock().now()))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    if not rows:
        click.echo(f"site {roster.site} has no members yet: `vigil enrol NODE --role edge --camera yard` lets one in")
        return
    table = [("name", "kind", "roles", "cameras", "expires", "state")]
    table += [
        (r["name"], r["kind"], " ".join(r["roles"]), " ".join(r["cameras"]), r["expires"], r["state"]) for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _rows(roster: Roster, now: datetime) -> Iterator[dict[str, Any]]:
    for member in roster.members:
        ends = member.expires_at(now)
        yield {
            "name": member.name,
            "kind": member.kind,
            "roles": list(member.roles),
            "cameras": list(member.cameras),
            "expires": f"{ends:%Y-%m-%d}" if ends else "-",
            "state": _state(member, now),
        }
    for promise in roster.invitations:
        left_s = (promise.expires_at - now).total_seconds()
        if left_s > 0:
            yield {
                "name": promise.name,
                "kind": promise.kind,
                "roles": list(promise.roles),
                "cameras": list(promise.cameras),
                "expires": "-",
                "state": f"invited, {_left(left_s)} left",
            }


def _left(seconds: float) -> str:
    days = int(seconds) // 86_400
    return f"{days} days" if days > 1 else f"{int(seconds) // 60 + 1} minutes"


def _state(member: Member, now: datetime) -> str:
    if member.is_revoked:
        return "revoked"
    ends = member.expires_at(now)
    if ends is None:
        return "expired"
    days = (ends - now).days
    return "in force" if days > 30 else f"in force, {days} days left"
