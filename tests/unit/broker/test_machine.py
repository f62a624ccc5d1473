from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.machine import Machine, MachineFigures, decode_throttled, kernel_clock_synchronised

WIRELESS = """\
Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
"""
FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


def machine(root: Path, files: Mapping[str, str], vcgencmd: str | None = None) -> MachineFigures:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return Machine(root, clock_synchronised=lambda: None, vcgencmd=vcgencmd).read()


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, ()),
        (0x1, ("under-voltage",)),
        (0x6, ("frequency-capped", "throttled")),
        (0x80008, ("soft-temperature-limit",)),
        (0x50000, ("under-voltage-occurred", "throttled-occurred")),
        (0x50005, ("under-voltage", "throttled")),
        (0xFFFFFFFF, ("under-voltage", "frequency-capped", "throttled", "soft-temperature-limit")),
    ],
)
def test_the_bits_of_a_raspberry_pi(bits: int, words: tuple[str, ...]) -> None:
    assert decode_throttled(bits) == words


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert machine(tmp_path, {}) == MachineFigures(None, (), None, None)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    figures = machine(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "81234\n",
            FIRMWARE: "50004\n",
            "proc/net/wireless": WIRELESS
            + " wlan0: 0000   58.  -52.  -256        0      0      0      0      0        0\n",
        },
    )
    assert figures == MachineFigures(81.234, ("throttled", "under-voltage-occurred"), -52.0, None)
    assert figures.is_throttled


def test_another_machine(tmp_path: Path) -> None:
    figures = machine(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "acpitz\n",
            "sys/class/thermal/thermal_zone0/temp": "27800\n",
            "sys/class/hwmon/hwmon0/name": "nvme\n",
            "sys/class/hwmon/hwmon0/temp1_input": "40000\n",
            "sys/class/hwmon/hwmon1/name": "k10temp\n",
            "sys/class/hwmon/hwmon1/temp1_input": "55125\n",
            "proc/net/wireless": WIRELESS,
        },
    )
    assert figures == MachineFigures(55.125, (), None, None)


def test_under_voltage_is_told_by_the_sensor_where_nothing_else_does(tmp_path: Path) -> None:
    sensor = {"sys/class/hwmon/hwmon2/name": "rpi_volt\n", "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "1\n"}
    assert machine(tmp_path, sensor).throttled == ("under-voltage",)


@pytest.mark.parametrize(("said", "words"), [("throttled=0x20000", ("frequency-capped-occurred",)), ("error=1", ())])
def test_the_program_of_the_raspberry_pi(tmp_path: Path, said: str, words: tuple[str, ...]) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\ntest "$*" = get_throttled && echo {said}\n')
    program.chmod(0o700)
    assert machine(tmp_path, {}, str(program)).throttled == words
    assert machine(tmp_path, {}, str(tmp_path / "gone")).throttled == ()


@pytest.mark.parametrize(
    ("lines", "dbm"),
    [
        ([" wlan0: 0000   58.  -71.  -256 0 0", " wlan1: 0000   58.  -60.  -256 0 0"], -60.0),
        ([" wlan0: 0000   58   204   0 0"], -52.0),  # a driver that counts in a byte
        ([" wlan0: 0000   0    0     0 0"], None),
        ([" wlan0: 0000"], None),
    ],
)
def test_the_wireless_signal(tmp_path: Path, lines: list[str], dbm: float | None) -> None:
    assert machine(tmp_path, {"proc/net/wireless": WIRELESS + "\n".join(lines)}).wifi_dbm == dbm


@pytest.mark.parametrize("content", ["", "hot", "12.5", "\x00\xff"])
def test_what_is_no_number_is_no_temperature(tmp_path: Path, content: str) -> None:
    zone = {"sys/class/thermal/thermal_zone0/type": "cpu-thermal", "sys/class/thermal/thermal_zone0/temp": content}
    assert machine(tmp_path, {**zone, FIRMWARE: content}).temperature_c is None


def test_the_kernel_answers_about_its_clock() -> None:
    assert kernel_clock_synchronised() in (True, False, None)
