"""What the machine tells of itself: heat, throttling, the wireless signal, and whether its clock is right.

Everything is read from files of the kernel, so a test hands over a folder that looks like them. What a machine does not
tell is None or empty, never an error.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Machine", "MachineFigures", "decode_throttled", "kernel_clock_synchronised"]

_THROTTLED_BITS = ("under-voltage", "frequency-capped", "throttled", "soft-temperature-limit")
"""Now in bits 0 to 3, since the start of the machine in bits 16 to 19. Source: Raspberry Pi documentation, "vcgencmd",
get_throttled."""
_CPU_ZONES = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp", "soc-thermal", "cpu0-thermal")
_CPU_SENSORS = ("cpu_thermal", "coretemp", "k10temp", "zenpower")
_STA_UNSYNC = 0x40
"""Source: adjtimex(2), status."""
_VCGENCMD_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class MachineFigures:
    """How the machine is.

    Attributes:
        temperature_c: of the processor.
        throttled: why it runs slower than it could; what was, but is no longer, ends in ``-occurred``.
        wifi_dbm: of the strongest wireless connection.
        clock_synchronised: whether the clock follows a time server.
    """

    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    wifi_dbm: float | None = None
    clock_synchronised: bool | None = None

    @property
    def is_throttled(self) -> bool:
        """Whether the processor is slowed down at this moment."""
        return "throttled" in self.throttled


def decode_throttled(bits: int) -> tuple[str, ...]:
    """The words of a Raspberry Pi's ``get_throttled``; of what is and was, only what is."""
    now = [word for bit, word in enumerate(_THROTTLED_BITS) if bits >> bit & 1]
    past = [word for bit, word in enumerate(_THROTTLED_BITS) if bits >> (bit + 16) & 1 and word not in now]
    return (*now, *(f"{word}-occurred" for word in past))


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex``; the rest is as long as it likes. Source: adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def kernel_clock_synchronised() -> bool | None:
    """Whether the kernel's clock follows a time server, whichever program sees to it; some microseconds."""
    timex = _Timex()  # modes of 0: read only
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):
        return None
    # A sandbox may forbid the call.
    return None if state < 0 else not timex.status & _STA_UNSYNC


class Machine:
    """Reads what this machine tells.

    Args:
        root: where ``proc`` and ``sys`` are.
        clock_synchronised: asks the kernel.
        vcgencmd: the Raspberry Pi's program, for kernels that have no file for it; None: there is none.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        clock_synchronised: Callable[[], bool | None] = kernel_clock_synchronised,
        vcgencmd: str | None = shutil.which("vcgencmd"),
    ) -> None:
        self._sys = root / "sys"
        self._proc = root / "proc"
        self._clock_synchronised = clock_synchronised
        self._vcgencmd = vcgencmd

    def read(self) -> MachineFigures:
        """How it is now."""
        return MachineFigures(
            temperature_c=self._temperature_c(),
            throttled=self._throttled(),
            wifi_dbm=self._wifi_dbm(),
            clock_synchronised=self._clock_synchronised(),
        )

    def _temperature_c(self) -> float | None:
        zones = {_text(zone / "type"): zone / "temp" for zone in sorted(self._sys.glob("class/thermal/thermal_zone*"))}
        sensors = {name: folder / "temp1_input" for name, folder in self._sensors()}
        files = [zones.get(name) for name in _CPU_ZONES] + [sensors.get(name) for name in _CPU_SENSORS]
        for file in files:
            if file is not None and re.fullmatch(r"-?\d+", milli_c := _text(file)):
                return int(milli_c) / 1000
        return None

    def _sensors(self) -> Iterator[tuple[str, Path]]:
        for folder in sorted(self._sys.glob("class/hwmon/hwmon*")):
            yield _text(folder / "name"), folder

    def _throttled(self) -> tuple[str, ...]:
        for file in self._sys.glob("devices/platform/soc*/soc*firmware/get_throttled"):
            return _decode_text(_text(file))
        if self._vcgencmd is not None:
            return _decode_text(_ask(self._vcgencmd).removeprefix("throttled="))
        for name, folder in self._sensors():
            if name == "rpi_volt" and _text(folder / "in0_lcrit_alarm") == "1":
                return ("under-voltage",)
        return ()

    def _wifi_dbm(self) -> float | None:
        """Source: proc(5), ``/proc/net/wireless``: interface, status, quality, level, noise."""
        levels = []
        for line in _text(self._proc / "net" / "wireless").splitlines()[2:]:
            columns = line.split()
            if len(columns) > 3 and re.fullmatch(r"-?\d+\.?", columns[3]):
                level = float(columns[3])
                # Some drivers count in an unsigned byte.
                levels.append(level - 256 if level > 63 else level)
        return max((level for level in levels if level < 0), default=None)


def _decode_text(bits: str) -> tuple[str, ...]:
    return decode_throttled(int(bits, 16)) if re.fullmatch(r"(0x)?[0-9a-f]{1,8}", bits) else ()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _ask(vcgencmd: str) -> str:
    try:
        asked = subprocess.run(
            [vcgencmd, "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()
