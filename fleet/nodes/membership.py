"""A node's place in its site, kept by its agent: certificates renewed in time, another name taken when told to."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from broker.acl import check_node_role
from broker.identity import identity_folder
from broker.members import PERSON_CERTIFICATE
from broker.messages import NodeDocument, NodeProblem, NodeReport
from config import BadPayloadError, PermanentError, TransientError, VigilError, get_logger
from config.clock import Clock, SystemClock
from config.names import check_name
from config.process import vigil_command
from config.settings import Settings
from config.site_file import role_environment
from config.supervise import Supervised
from fleet.desk import Order
from fleet.nodes.place import Place, keep_place

__all__ = ["AgentOfNode", "Membership"]

_LOOK_S = 3600.0
_RENEWED_DAYS = 30
"""A certificate is renewed when it has fewer days left; a node that was away for a month still has it."""
_AGAIN_S = 20.0
"""Between two attempts while a role has no certificate: the site may grant it at any moment."""
_DRAIN_S = 120.0
_OUTBOX_S = 20
"""Seconds without a receipt after which what waits counts as not to be delivered now."""
_OUTBOX_MAX_S = 600.0


class AgentOfNode(Protocol):
    """What this needs of the agent."""

    @property
    def document(self) -> NodeDocument | None:
        """What the site says of this node."""
        ...

    @property
    def report(self) -> NodeReport | None:
        """What it has told last."""
        ...

    @property
    def orders(self) -> Mapping[str, Order]:
        """What it can be asked to do; ``drain``, ``resume`` and ``restart`` are used."""
        ...

    def on_document(self, listener: Callable[[NodeDocument | None], None]) -> None:
        """Have `listener` called with each new document."""
        ...

    def leave(self) -> None:
        """End the agent in order."""
        ...


class Membership:
    """Renews the node's certificates, and takes another name when the site says so.

    A name is in the certificates and in every topic of the node, so a node cannot just change it: it drains, sends
    what its outboxes hold, joins under the new name with a key of its own, and starts anew.

    Concurrency: orders come on the bus's thread; the work is done on threads of its own.

    Args:
        agent: not yet started.
        settings: this node's own, with what the site has told it.
        given_name: its name by its own settings, without that.
        clock: time.

    Attributes:
        moved: the node has another place now: start it anew.
    """

    def __init__(self, agent: AgentOfNode, settings: Settings, *, given_name: str, clock: Clock | None = None) -> None:
        self.moved = False
        self._agent = agent
        self._settings = settings
        self._given_name = given_name
        self._clock: Clock = clock or SystemClock()
        self._log = get_logger()
        self._identity = identity_folder(settings)
        self._problems: dict[str, NodeProblem] = {}
        self._renaming = threading.Lock()
        self._stop = threading.Event()
        self._due = threading.Event()
        self._thread = Supervised("membership", self._renew_and_wait, stop=self._stop, clock=self._clock)
        agent.on_document(lambda _document: self._due.set())

    @property
    def orders(self) -> Mapping[str, Order]:
        """``rename`` and ``renew``."""
        return {"rename": self._order_rename, "renew": self._order_renew}

    def start(self) -> None:
        """Begin, where this machine is a member of a secure site."""
        if self._is_secure:
            self._thread.start()

    def close(self) -> None:
        """End; what is under way is left to its timeouts."""
        self._stop.set()
        self._due.set()
        self._thread.join(1.0)

    def problems(self) -> Sequence[NodeProblem]:
        """Why it has no certificate, or not the name that it was told to take."""
        return tuple(self._problems.values())

    @property
    def _is_secure(self) -> bool:
        own = [role for role in self._identity.roles() if role != PERSON_CERTIFICATE]
        return self._settings.bus.url.startswith("mqtts://") and bool(own)

    # --- certificates --------------------------------------------------------------------------------------------

    def _order_renew(self, _arguments: Mapping[str, str]) -> Mapping[str, str]:
        if not self._is_secure:
            raise BadPayloadError("this node has no certificates")
        self._due.set()
        return {"renewing": self._settings.node}

    def _renew_and_wait(self) -> None:
        # Here and below, not above: only a node of a secure site needs the library for certificates.
        from fleet.enrolment.renewal import days_left

        self._due.clear()
        missing = self._missing()
        if missing or days_left(self._identity, self._clock.now()) < _RENEWED_DAYS:
            self._renew(missing)
        self._due.wait(_AGAIN_S if self._missing() else _LOOK_S)

    def _missing(self) -> list[str]:
        """Roles that it is to run without a certificate for them."""
        document = self._agent.document
        counts = document.roles.items() if document is not None else ()
        names = [base if number == 1 else f"{base}.{number}" for base, n in counts for number in range(1, n + 1)]
        return [name for name in names if _has_rights(name) and name not in self._identity.roles()]

    def _renew(self, missing: Sequence[str]) -> None:
        from fleet.enrolment.client import AuthorityAddress
        from fleet.enrolment.renewal import renew_identity

        try:
            renew_identity(self._identity, AuthorityAddress.of(self._identity))
        except VigilError as error:
            self._tell("certificates", str(error))
            return
        self._log.info("agent.renewed", roles=list(self._identity.roles()))
        left = self._missing()
        if left:
            name = self._settings.node
            self._tell("certificates", f"no certificate as {', '.join(left)}: `vigil grant {name} --role {left[0]}`")
        else:
            self._problems.pop("certificates", None)
        for role in missing:
            if role not in left:
                self._restart(role)

    def _restart(self, role: str) -> None:
        try:
            self._agent.orders["restart"]({"role": role})
        except VigilError as error:
            self._log.debug("agent.role_not_restarted", role=role, error=str(error))  # it is not to run any more

    # --- the name ------------------------------------------------------------------------------------------------

    def _order_rename(self, arguments: Mapping[str, str]) -> Mapping[str, str]:
        name, token = arguments.get("name", ""), arguments.get("token", "")
        try:
            check_name(name)
        except ValueError as error:
            raise BadPayloadError(f"name: {error}") from error
        if self._is_secure and not token:
            raise BadPayloadError("token: on a secure bus a new name needs a new certificate, and that an invitation")
        if not self._renaming.acquire(blocking=False):
            raise TransientError("this node is taking another name already")
        threading.Thread(target=self._rename, args=(name, dict(arguments)), name="rename", daemon=True).start()
        return {"state": "draining"}

    def _rename(self, name: str, arguments: Mapping[str, str]) -> None:
        try:
            self._send_everything()
            if self._is_secure:
                self._join(name, arguments)
            settings = self._settings
            place = Place(site=settings.site, node=name, bus=settings.bus.url, instead_of=self._given_name)
            keep_place(settings.state_dir, place)
        except (VigilError, OSError, subprocess.SubprocessError) as error:
            self._tell("name", f"it is still called {self._settings.node}, not {name}: {error}")
            self._log.warning("agent.rename_failed", name=name, error=str(error))
            if self._agent.document is not None:
                self._agent.orders["resume"]({})
        else:
            self._log.info("agent.renamed", name=name)
            self.moved = True
            self._agent.leave()
        finally:
            self._renaming.release()

    def _join(self, name: str, arguments: Mapping[str, str]) -> None:
        from fleet.enrolment.client import AuthorityAddress
        from fleet.enrolment.joining import join_as
        from fleet.enrolment.token import JoinToken

        given = arguments.get("authority")
        address = AuthorityAddress.read(given) if given else AuthorityAddress.of(self._identity)
        join_as(self._identity, address, JoinToken.read(arguments["token"]), name)

    def _send_everything(self) -> None:
        """Stop what runs, and deliver what its outboxes hold: under the new name nobody would send it."""
        if self._agent.document is None:
            return
        self._agent.orders["drain"]({})
        end_s = self._clock.monotonic_s() + _DRAIN_S
        while (report := self._agent.report) is None or report.state != "drained":
            if self._clock.monotonic_s() > end_s:
                raise TransientError(f"it is not drained within {_DRAIN_S:g} s")
            if self._clock.wait(self._stop, 0.1):
                raise TransientError("its agent was stopped meanwhile")
        site_file = self._settings.state_dir / "agent" / "vigil.yaml"
        done = subprocess.run(
            vigil_command(site_file, ["outbox", "drain", "--timeout", str(_OUTBOX_S)]),
            env=role_environment(self._settings, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_OUTBOX_MAX_S,
            check=False,
        )
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise PermanentError(f"its outboxes are not empty: {'; '.join(words[-3:])[:1000]}")

    def _tell(self, part: str, reason: str) -> None:
        self._problems[part] = NodeProblem(part=part, reason=reason[:4096])


def _has_rights(role: str) -> bool:
    try:
        check_node_role(role)
    except ValueError:
        return False
    return True
