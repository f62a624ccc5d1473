"""What the commands that let people and nodes in have in common: their options and their words."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import click

from broker.acl import PERSON_ROLES
from broker.members import Roster

__all__ = ["cameras_option", "reachable_name", "rights_option", "rights_text", "roles_option", "tell_shared_cameras"]

roles_option = click.option("--role", "roles", metavar="ROLE", multiple=True, help="edge, detector, bridge, fleet ...")
cameras_option = click.option(
    "--camera", "cameras", metavar="NAME", multiple=True, help="A camera that the node watches."
)
rights_option = click.option("--rights", type=click.Choice(PERSON_ROLES), help="What a person may do.")


def tell_shared_cameras(roster: Roster, name: str, cameras: Sequence[str]) -> None:
    """Say which other nodes may watch a camera too, for that is rarely meant."""
    for other in roster.members:
        shared = sorted(set(other.cameras) & set(cameras)) if other.name != name else []
        if shared:
            click.echo(
                f"note: {other.name} may watch {', '.join(shared)} too; `vigil grant {other.name} --no-camera "
                f"{shared[0]}` ends that",
                err=True,
            )


def rights_text(roles: Sequence[str], cameras: Sequence[str]) -> str:
    """What a member may be, in words."""
    return ", ".join(roles) + (f" with camera {', '.join(cameras)}" if cameras else "")


def reachable_name(names: Sequence[str]) -> str:
    """By which of its names nodes reach the authority.

    An address rather than a name, for a node may know no names; not one that only this machine has.
    """
    for name in names:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            continue
        if not address.is_loopback and address.version == 4:
            return name
    return names[0]
