"""What is to be on a node's card: all that a first boot is told, whichever operating system it boots."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import ConfigError

__all__ = ["CardUser", "NodeCard", "Wifi"]

_SSID_BYTES_MAX = 32
"""Source: IEEE 802.11, 9.4.2.2."""
_PSK_ROUNDS = 4096
_PSK_BYTES = 32
_PSK = re.compile(r"[0-9a-f]{64}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""Source: useradd(8), the names that Debian takes."""
_SSH_KEY = re.compile(
    r"(ssh-(rsa|dss|ed25519)|ecdsa-sha2-nistp\d+|sk-[a-z0-9.@-]+) [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?", re.ASCII
)
_TIME_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_LOCALE = re.compile(r"[A-Za-z0-9_.@-]+")
_FIRMWARE_LINE = re.compile(r"[a-z][a-z0-9_]*=[!-~]+")
_KEYMAP = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wifi:
    """One wireless network.

    Attributes:
        ssid: its name.
        psk: the key that its password makes, 64 hexadecimal digits; empty: an open network.
        country: two letters; the radio stays off where it is not told.
        is_hidden: it does not tell its name.
    """

    ssid: str
    psk: str = field(default="", repr=False)
    country: str
    is_hidden: bool = False

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: a value cannot be.
        """
        if not 0 < len(self.ssid.encode()) <= _SSID_BYTES_MAX or not self.ssid.isprintable():
            raise ConfigError(f"a network's name has 1 to {_SSID_BYTES_MAX} bytes, all of them visible", field="--wifi")
        if self.psk and not _PSK.fullmatch(self.psk):
            raise ConfigError("a network's key is 64 hexadecimal digits", field="--wifi")
        if not _COUNTRY.fullmatch(self.country):
            raise ConfigError(f"{self.country[:20]!r}: write two letters, as DE or US", field="--country")

    @classmethod
    def of(cls, ssid: str, password: str, *, country: str, is_hidden: bool = False) -> Wifi:
        """With the password as people know it, which is in none of the fields: from the key nobody finds it again.

        Source: IEEE 802.11, J.4: PBKDF2 with HMAC-SHA-1.

        Raises:
            ConfigError: it cannot be a password.
        """
        if _PSK.fullmatch(password.lower()):
            return cls(ssid=ssid, psk=password.lower(), country=country, is_hidden=is_hidden)
        if not 8 <= len(password) <= 63 or not all(" " <= one <= "~" for one in password):
            raise ConfigError("a password of a network has 8 to 63 characters of ASCII", field="--wifi")
        key = hashlib.pbkdf2_hmac("sha1", password.encode(), ssid.encode(), _PSK_ROUNDS, _PSK_BYTES)
        return cls(ssid=ssid, psk=key.hex(), country=country, is_hidden=is_hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardUser:
    """Who may log in to the node.

    Attributes:
        name: of the account.
        password_hash: as in ``/etc/shadow``; empty: no password logs in, only a key.
        ssh_keys: public keys, one line each.
    """

    name: str
    password_hash: str = field(default="", repr=False)
    ssh_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: a value cannot be.
        """
        if not _USER.fullmatch(self.name) or self.name == "root":
            raise ConfigError(
                f"{self.name[:40]!r}: use a-z, 0-9, '-' and '_', beginning with a letter, and not root", field="--user"
            )
        if self.password_hash and not re.fullmatch(r"\$(6|5|y)\$[./A-Za-z0-9$=,]+", self.password_hash):
            raise ConfigError("no hash of a password as /etc/shadow has it", field="--user")
        for key in self.ssh_keys:
            if not _SSH_KEY.fullmatch(key):
                raise ConfigError(f"{key[:30]!r}… is no public key: give the file that ends in .pub", field="--ssh-key")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCard:
    """A node before its first boot.

    Attributes:
        node: its name, which is its host name too.
        site: its site's name.
        authority: ``HOST:PORT`` where it enrols.
        token: the one-time token that lets it in.
        broker: the site's broker, ``mqtts://HOST:PORT``.
        roles: what its processes may be.
        cameras: those that it watches: their sources by name; an empty source: the site's registry says it.
        wifi: the wireless network that it uses; None: cable.
        user: who may log in; None: nobody but what the image brings.
        has_ssh: whether one may log in over the network.
        time_zone: such as ``Europe/Berlin``; empty: as the image has it.
        locale: such as ``en_GB.UTF-8``; empty: as the image has it.
        keymap: such as ``de``; empty: as the image has it.
        config_txt: further lines for the firmware, such as ``dtoverlay=imx708``.
        bundle: what is installed at first boot, without an internet.
    """

    node: str
    site: str
    authority: str
    token: str = field(repr=False)
    broker: str
    roles: tuple[str, ...] = ("edge",)
    cameras: Mapping[str, str] = field(default_factory=dict)
    wifi: Wifi | None = None
    user: CardUser | None = None
    has_ssh: bool = False
    time_zone: str = ""
    locale: str = ""
    keymap: str = ""
    config_txt: tuple[str, ...] = ()
    bundle: Path | None = None

    def __post_init__(self) -> None:
        """Check what an operating system takes; names are checked where they are read.

        Raises:
            ConfigError: a value cannot be.
        """
        if "_" in self.node or self.node.endswith("-"):
            raise ConfigError(
                f"{self.node!r}: a node's name is its host name too, which takes letters, digits and '-': "
                f"try {self.node.replace('_', '-').strip('-')!r}",
                field="--node",
            )
        for value, pattern, option, example in (
            (self.time_zone, _TIME_ZONE, "--time-zone", "Europe/Berlin"),
            (self.locale, _LOCALE, "--locale", "en_GB.UTF-8"),
            (self.keymap, _KEYMAP, "--keymap", "de"),
        ):
            if value and not pattern.fullmatch(value):
                raise ConfigError(f"{value[:40]!r}: write such as {example}", field=option)
        for line in self.config_txt:
            if not _FIRMWARE_LINE.fullmatch(line):
                raise ConfigError(f"{line[:60]!r}: write NAME=VALUE, as dtoverlay=imx708", field="--config-txt")
