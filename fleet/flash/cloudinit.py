"""A first boot told by cloud-init: Raspberry Pi OS Trixie, and other systems with a seed on their boot partition.

Source: https://docs.cloud-init.io, "NoCloud" and "Network configuration, version 2"; what Raspberry Pi OS makes of it:
https://github.com/raspberrypi/rpi-imager, ``src/customization_generator.cpp``.
"""

from __future__ import annotations

from typing import Any

import yaml

from fleet.flash.boot_text import FIRST_BOOT, with_kernel_words
from fleet.flash.card import CardUser, NodeCard, Wifi

__all__ = ["cloud_init_files"]


def cloud_init_files(card: NodeCard, cmdline: bytes, instance: str) -> dict[str, bytes]:
    """What is to be on the boot partition, by name.

    Args:
        card: what the node is to be.
        cmdline: content of ``cmdline.txt``.
        instance: never used before: an instance that cloud-init knows has no first boot.
    """
    return {
        "user-data": b"#cloud-config\n" + _yaml(_user_data(card)),
        "network-config": _yaml({"network": _network(card.wifi)}),
        "meta-data": _yaml({"dsmode": "local", "instance-id": instance, "local-hostname": card.node}),
        "cmdline.txt": with_kernel_words(cmdline, [f"ds=nocloud;i={instance}"], without="ds=nocloud.*"),
    }


def _user_data(card: NodeCard) -> dict[str, Any]:
    told: dict[str, Any] = {
        "hostname": card.node,
        "manage_etc_hosts": True,
        "apt": {
            # Else it writes Debian's own sources over those of Raspberry Pi OS.
            "preserve_sources_list": True,
            # A Raspberry Pi has no clock: what its packages are dated says nothing before the network told the time.
            "conf": 'Acquire { Check-Date "false"; };\n',
        },
    }
    if card.time_zone:
        told["timezone"] = card.time_zone
    if card.locale:
        told["locale"] = card.locale
    if card.keymap:
        told["keyboard"] = {"model": "pc105", "layout": card.keymap}
    if card.user is not None:
        # `user`, not `users`: it renames the one that the image has, with its groups (video, gpio).
        told["user"] = _user(card.user)
    told["ssh_pwauth"] = card.has_ssh and card.user is not None and bool(card.user.password_hash)
    told["runcmd"] = [
        # cloud-init does not do this on Raspberry Pi OS.
        *([["systemctl", "enable", "--now", "ssh"]] if card.has_ssh else []),
        *([["rfkill", "unblock", "wifi"]] if card.wifi is not None else []),
        # It makes itself a service, and is back at once.
        ["bash", FIRST_BOOT],
    ]
    return told


def _user(user: CardUser) -> dict[str, Any]:
    told: dict[str, Any] = {"name": user.name, "lock_passwd": not user.password_hash}
    if user.password_hash:
        # In the group sudo, with the password: without this line cloud-init lets the user do all without one.
        told |= {"passwd": user.password_hash, "sudo": None}
    else:
        told["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if user.ssh_keys:
        told["ssh_authorized_keys"] = list(user.ssh_keys)
    return told


def _network(wifi: Wifi | None) -> dict[str, Any]:
    # The cable too: where this file names wifi alone, the cable is dead.
    told: dict[str, Any] = {"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}}}
    if wifi is None:
        return told
    point: dict[str, Any] = {"password": wifi.psk} if wifi.psk else {"auth": {"key-management": "none"}}
    if wifi.is_hidden:
        point["hidden"] = True
    told["wifis"] = {
        "wlan0": {
            "dhcp4": True,
            "optional": True,
            "regulatory-domain": wifi.country,
            "access-points": {wifi.ssid: point},
        }
    }
    return told


def _yaml(told: dict[str, Any]) -> bytes:
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=1000).encode()
