"""A first boot told by a script that systemd runs once: Raspberry Pi OS Bookworm, and the first Trixie.

Its first boot of all makes the partition larger and starts again; the second one runs this script, with nothing but the
disks there, and starts again; in the third the node is made.

Source: https://github.com/RPi-Distro/raspberrypi-sys-mods, branch ``bookworm``; systemd-run-generator(8).
"""

from __future__ import annotations

import shlex
import uuid

from fleet.flash.boot_text import FIRMWARE, FIRST_BOOT, with_kernel_words
from fleet.flash.card import CardUser, NodeCard, Wifi

__all__ = ["firstrun_files"]

_SCRIPT = "firstrun.sh"
# The path as it is since Bookworm: at /boot/firstrun.sh a hook of the image would rewrite the script's end.
_WORDS = (
    f"systemd.run={FIRMWARE}/{_SCRIPT}",
    "systemd.run_success_action=reboot",
    "systemd.run_failure_action=reboot",
    "systemd.unit=kernel-command-line.target",
)
_OURS = r"systemd\.(run|run_success_action|run_failure_action|unit)=[^ ]*"
_LOG = f"{FIRMWARE}/vigil/firstrun.log"

_HEAD = f"""\
#!/bin/bash
# Written by `vigil flash`; systemd runs it once, before the node's own first start. What failed stands in
# {_LOG}.
# shellcheck disable=SC2016,SC2317 # hashes of passwords have dollars; `step` calls the functions
set -u
exec >>"{_LOG}" 2>&1

step() {{
    local name="$1"
    shift
    if "$@"; then
        echo "done: $name"
    else
        echo "FAILED: $name"
    fi
}}

write() {{
    install -D -m "$1" /dev/null "$2" && cat >"$2"
}}
"""

_TAIL = f"""
# The reboot after this one is the node's own.
rm -f "{FIRMWARE}/{_SCRIPT}"
sed -i -E 's/ {_OURS}//g' "{FIRMWARE}/cmdline.txt"
sync
exit 0
"""

_USER = """
set_user() {
    local name="$1" hash="$2" first
    if [ -x /usr/lib/userconf-pi/userconf ]; then
        /usr/lib/userconf-pi/userconf "$name" "$hash" || return 1
    else
        first="$(getent passwd 1000 | cut -d: -f1)"
        if [ -z "$first" ]; then
            useradd --create-home --shell /bin/bash --groups sudo,video "$name" || return 1
        elif [ "$first" != "$name" ]; then
            usermod --login "$name" --home "/home/$name" --move-home "$first" || return 1
            groupmod --new-name "$name" "$first" || return 1
        fi
        printf '%s:%s\\n' "$name" "$hash" | chpasswd -e || return 1
    fi
}
"""

_KEYS = """
set_keys() {
    local name="$1" home
    home="$(getent passwd "$name" | cut -d: -f6)"
    [ -n "$home" ] || return 1
    install -d -m 700 -o "$name" -g "$name" "$home/.ssh" || return 1
    cat >"$home/.ssh/authorized_keys" || return 1
    chown "$name:$name" "$home/.ssh/authorized_keys" && chmod 600 "$home/.ssh/authorized_keys"
}
"""

_HOST = """
set_host() {
    printf '%s\\n' "$1" >/etc/hostname || return 1
    if grep -q '^127\\.0\\.1\\.1' /etc/hosts; then
        sed -i "s/^127\\.0\\.1\\.1.*/127.0.1.1\\t$1/" /etc/hosts
    else
        printf '127.0.1.1\\t%s\\n' "$1" >>/etc/hosts
    fi
}
"""

_ZONE = """
set_zone() {
    [ -f "/usr/share/zoneinfo/$1" ] || return 1
    ln -sf "/usr/share/zoneinfo/$1" /etc/localtime && printf '%s\\n' "$1" >/etc/timezone
}
"""


def firstrun_files(card: NodeCard, cmdline: bytes) -> dict[str, bytes]:
    """What is to be on the boot partition, by name.

    Args:
        card: what the node is to be.
        cmdline: content of ``cmdline.txt``.
    """
    return {
        _SCRIPT: _script(card).encode(),
        "cmdline.txt": with_kernel_words(cmdline, _WORDS, without=_OURS),
    }


def _script(card: NodeCard) -> str:
    parts = [_HEAD, _HOST, f'step "host name" set_host {shlex.quote(card.node)}\n']
    if card.user is not None:
        parts += _user(card.user)
    parts += _ssh(card)
    if card.wifi is not None:
        parts += _wifi(card.wifi)
    if card.time_zone:
        parts += [_ZONE, f'step "time zone" set_zone {shlex.quote(card.time_zone)}\n']
    if card.locale:
        parts.append(f'\nstep "locale" raspi-config nonint do_change_locale {shlex.quote(card.locale)}\n')
    if card.keymap:
        parts.append(f'\nstep "keyboard" raspi-config nonint do_configure_keyboard {shlex.quote(card.keymap)}\n')
    parts.append(f'\nstep "the node at its next boot" bash {FIRST_BOOT}\n')
    return "".join((*parts, _TAIL))


def _user(user: CardUser) -> list[str]:
    # No password fits `*`, while sshd lets one in with a key.
    hashed = shlex.quote(user.password_hash or "*")
    parts = [_USER, f'step "user" set_user {user.name} {hashed}\n']
    if user.ssh_keys:
        parts += [_KEYS, _fed(f'step "keys" set_keys {user.name}', "\n".join(user.ssh_keys) + "\n")]
    if not user.password_hash:
        rights = f"{user.name} ALL=(ALL) NOPASSWD:ALL\n"
        parts.append(_file("rights without a password", "440", "/etc/sudoers.d/010_vigil-nopasswd", rights))
    return parts


def _ssh(card: NodeCard) -> list[str]:
    if not card.has_ssh:
        return []
    has_password = card.user is not None and bool(card.user.password_hash)
    answer = "yes" if has_password else "no"
    return [
        _file(
            "passwords over ssh", "644", "/etc/ssh/sshd_config.d/50-vigil.conf", f"PasswordAuthentication {answer}\n"
        ),
        '\nstep "ssh" systemctl enable ssh\n',
    ]


def _wifi(wifi: Wifi) -> list[str]:
    # As numbers: as text, a name such as `1;2` is read as numbers too, and a backslash begins an escape.
    ssid = "".join(f"{byte};" for byte in wifi.ssid.encode())
    profile = (
        f"[connection]\nid=vigil\nuuid={uuid.uuid4()}\ntype=wifi\n\n"
        f"[wifi]\nmode=infrastructure\nssid={ssid}\nhidden={'true' if wifi.is_hidden else 'false'}\n\n"
        "[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n"
    )
    if wifi.psk:
        profile += f"\n[wifi-security]\nkey-mgmt=wpa-psk\npsk={wifi.psk}\n"
    return [
        f'\nstep "wifi country" raspi-config nonint do_wifi_country {wifi.country}\n',
        _file("wifi", "600", "/etc/NetworkManager/system-connections/vigil.nmconnection", profile),
        'step "wifi on" rfkill unblock wifi\n',
    ]


def _file(name: str, mode: str, path: str, content: str) -> str:
    return _fed(f"step {shlex.quote(name)} write {mode} {path}", content)


def _fed(command: str, content: str) -> str:
    """A command with text on its standard input, in which the shell reads nothing."""
    end = "VIGIL_END"
    while end in content:
        end += "_"
    return f"\n{command} <<'{end}'\n{content}{end}\n"
