"""How this machine's services are, as systemd says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fleet.service.units import SERVICES, unit_name

__all__ = ["ServiceState", "service_states"]

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "StatusText",
    "StateChangeTimestamp",
    "Result",
    "ExecMainStatus",
)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service.

    Attributes:
        name: its unit.
        active: such as ``active``, ``activating``, ``failed``, ``inactive``.
        detail: such as ``running`` or ``auto-restart``.
        enabled: it starts with the machine.
        since: of this state, as systemd writes it.
        pid: of its main process; 0 without one.
        restarts: how often systemd started it again.
        says: its own line.
        result: why it ended, such as ``watchdog`` or ``exit-code``.
        exit_status: of its last end.
    """

    name: str
    active: str
    detail: str
    enabled: bool
    since: str
    pid: int
    restarts: int
    says: str
    result: str
    exit_status: int

    @property
    def is_well(self) -> bool:
        """Whether it runs, where it is to."""
        return self.active == "active" or not (self.enabled or self.active == "failed")

    def in_words(self) -> str:
        """For a person, in one or two lines."""
        name = self.name.removesuffix(".service")
        boot = "starts with the machine" if self.enabled else "not enabled"
        if self.active == "active":
            times = {0: "", 1: ", started again once"}.get(self.restarts, f", started again {self.restarts} times")
            said = f"\n  {self.says}" if self.says else ""
            return f"{name}  runs since {self.since}, process {self.pid}{times}; {boot}{said}"
        ended = f", last end: {self.result} (status {self.exit_status})" if self.result not in ("", "success") else ""
        waits = "waits for its next start" if self.detail == "auto-restart" else f"does not run ({self.active})"
        return f"{name}  {waits}{ended}; {boot}\n  journalctl -u {name} -n 50 shows why"

    def as_json(self) -> dict[str, object]:
        """For scripts."""
        return {
            "service": self.name,
            "active": self.active,
            "detail": self.detail,
            "enabled": self.enabled,
            "since": self.since,
            "pid": self.pid,
            "restarts": self.restarts,
            "says": self.says,
            "result": self.result,
            "exit_status": self.exit_status,
        }


def service_states(systemctl: Callable[..., str]) -> list[ServiceState]:
    """Those of Vigil's services that are installed.

    Args:
        systemctl: gives systemd an order.

    Raises:
        TransientError: systemd does not run this machine.
    """
    names = [unit_name(service) for service in SERVICES]
    said = systemctl("show", "--no-pager", f"--property={','.join(_PROPERTIES)}", *names)
    blocks = [_fields(block) for block in said.strip().split("\n\n")]
    return [_state(fields) for fields in blocks if fields.get("LoadState") not in (None, "not-found")]


def _fields(block: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in block.splitlines())}


def _state(fields: Mapping[str, str]) -> ServiceState:
    return ServiceState(
        name=fields.get("Id", ""),
        active=fields.get("ActiveState", ""),
        detail=fields.get("SubState", ""),
        enabled=fields.get("UnitFileState", "").startswith("enabled"),
        since=fields.get("StateChangeTimestamp", ""),
        pid=_number(fields.get("MainPID", "")),
        restarts=_number(fields.get("NRestarts", "")),
        says=fields.get("StatusText", ""),
        result=fields.get("Result", ""),
        exit_status=_number(fields.get("ExecMainStatus", "")),
    )


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
