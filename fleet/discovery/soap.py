"""A conversation with one camera over SOAP, as ONVIF has it; the only place that knows the library.

A camera refuses a login whose time stamp is off by its own clock, and cameras' clocks are off: each conversation begins
with the question what time it is there, which everybody may ask, and stamps what follows with that.

Source: ONVIF Core Specification 5.9.4 and 8.1; WS-Security UsernameToken Profile 1.1.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import onvif
import zeep.exceptions
from onvif.client import ONVIFService
from onvif.util import is_auth_error

from config import PermanentError
from config.registry import Login

__all__ = ["Conversation", "LoginRefusedError", "NoOnvifError", "open_session", "read_descriptions"]

_DEVICE = "http://www.onvif.org/ver10/device/wsdl"
_MEDIA = "http://www.onvif.org/ver10/media/wsdl"
_BINDINGS: Mapping[str, tuple[str, str]] = {
    _DEVICE: ("devicemgmt.wsdl", "DeviceBinding"),
    _MEDIA: ("media.wsdl", "MediaBinding"),
}
_WSDL = Path(onvif.__file__).parent / "wsdl"
_SKEW_TOLD_S = 5.0
"""From which a camera's clock is worth a word."""
_HALF_SECOND = timedelta(milliseconds=500)
"""Cameras tell whole seconds."""
_ANSWER_BYTES_MAX = 8_000_000
"""The largest pictures that cameras take are smaller; what goes on for ever would fill the memory before its time is
over."""
_DESCRIPTIONS = threading.Lock()
"""Held while they are read: that takes longer than asking a camera, and each thread would do it again."""
_READ: set[str] = set()


class LoginRefusedError(PermanentError):
    """The camera does not take the login, or wants one."""


class NoOnvifError(PermanentError):
    """What answers there does not speak ONVIF, or not this part of it."""


class Conversation:
    """A few questions to one camera, over connections that are closed afterwards.

    Args:
        address: its device service.
        login: how to log in.
    """

    def __init__(self, address: str, login: Login | None) -> None:
        self.address = address
        self.login = login
        self.ahead: timedelta | None = None
        self._open: dict[str, ONVIFService] = {}
        self._addresses: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            self.ahead = await self._clock()
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        for space in list(self._open):
            await self._forget(space)

    async def device(self, operation: str, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Ask the device service; what comes is as the camera's description says."""
        return await self._call(_DEVICE, self.address, operation, arguments)

    async def media(self, operation: str, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Ask the media service."""
        address = (await self.services()).get(_MEDIA)
        if address is None:
            raise NoOnvifError(
                f"{self._host} has no ONVIF media service (only {', '.join(self.service_names()) or 'none'}): "
                "give its stream by hand with `vigil camera add`"
            )
        return await self._call(_MEDIA, address, operation, arguments)

    async def services(self) -> Mapping[str, str]:
        """Address of each service, by its name space, at the host that we talk to."""
        if not self._addresses:
            try:
                told = await self.device("GetServices", {"IncludeCapability": False})
                pairs = [(one.Namespace, one.XAddr) for one in told or ()]
            except NoOnvifError:  # it is an old one
                told = await self.device("GetCapabilities", {"Category": "All"})
                pairs = [(_MEDIA, told.Media.XAddr)] if told is not None and told.Media is not None else []
            self._addresses = {space: self.reachable(address) for space, address in pairs if space and address}
        return self._addresses

    def service_names(self) -> tuple[str, ...]:
        """What it speaks, in words."""
        return tuple(sorted({match[1].lower() for space in self._addresses if (match := _SERVICE.search(space))}))

    def reachable(self, uri: str) -> str:
        """The URI with the host that we talk to and without a login: cameras name addresses that they had once."""
        parts = urlsplit(uri)
        try:
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            port = ""
        host = self._host
        host = f"[{host}]" if ":" in host else host
        return urlunsplit(parts._replace(netloc=f"{host}{port}"))

    @property
    def _host(self) -> str:
        return urlsplit(self.address).hostname or ""

    async def _clock(self) -> timedelta | None:
        """How far its clock is ahead of ours; None where it does not tell."""
        service = await self._service(_DEVICE, self.address)
        try:
            told = await service.authless_GetSystemDateAndTime()
        except zeep.exceptions.Fault as error:
            if _is_no_soap(error):
                raise self._no_onvif(error) from error
            return None  # against the standard, it wants a login for that
        except (zeep.exceptions.Error, onvif.ONVIFError) as error:
            raise self._no_onvif(error) from error
        utc = getattr(told, "UTCDateTime", None)
        if utc is None or utc.Date is None or utc.Time is None:
            return None
        try:
            date, time = utc.Date, utc.Time
            there = datetime(date.Year, date.Month, date.Day, time.Hour, time.Minute, min(time.Second, 59), tzinfo=UTC)
        except ValueError:
            return None
        await self._forget(_DEVICE)  # the next one stamps with the camera's time
        return there + _HALF_SECOND - datetime.now(UTC)

    async def _call(self, space: str, address: str, operation: str, arguments: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
        service = await self._service(space, address)
        try:
            name = operation if self.login is not None else f"authless_{operation}"
            return await getattr(service, name)(dict(arguments or {}))
        except (zeep.exceptions.Error, onvif.ONVIFError) as error:
            raise self._translated(error, operation) from error

    async def _service(self, space: str, address: str) -> ONVIFService:
        if space not in self._open:
            service = _service(space, address, self.login, self.ahead)
            self._open[space] = service
            await service.setup()
            await service.transport.session.close()
            service.transport.session = open_session(self.login)
        return self._open[space]

    async def _forget(self, space: str) -> None:
        service = self._open.pop(space, None)
        if service is not None:
            await service.transport.session.close()
            await service.close()

    def _translated(self, error: Exception, operation: str) -> PermanentError:
        status = getattr(error, "status_code", None)
        if status in {401, 403} or is_auth_error(error):
            return self._refused()
        if isinstance(error, zeep.exceptions.Fault) and not _is_no_soap(error):
            return NoOnvifError(f"{self._host} refuses {operation}: {_words(error)}")
        return self._no_onvif(error)

    def _refused(self) -> LoginRefusedError:
        if self.login is None:
            return LoginRefusedError(
                f"{self._host} wants a login: give --username, and the password when asked or as VIGIL_CAMERA_PASSWORD"
            )
        words = (
            f"{self._host} refuses the login of {self.login.username!r}: look at the password; many cameras have users "
            "of their own for ONVIF, which are made in their settings"
        )
        if self.ahead is None:
            words += "; it does not tell its time, and refuses a right password while its clock is wrong: set that"
        elif abs(self.ahead.total_seconds()) > _SKEW_TOLD_S:
            words += f"; its clock is {self.ahead.total_seconds():+.0f} s off, which was allowed for"
        return LoginRefusedError(words)

    def _no_onvif(self, error: Exception) -> NoOnvifError:
        parts = urlsplit(self.address)
        words = "a web page" if _is_no_soap(error) else _words(error)
        return NoOnvifError(
            f"{parts.netloc} answers, but not in ONVIF at {parts.path or '/'} ({words}): switch it on in the camera's "
            "settings, often below Network > Advanced, or give its stream by hand with `vigil camera add`"
        )


_SERVICE = re.compile(r"/ver\d\d/(\w+)/wsdl")


def read_descriptions() -> None:
    """Have the library read what a camera's services are, once in a process."""

    async def read() -> None:
        for space in _BINDINGS:
            service = _service(space, "http://127.0.0.1", None, None)
            await service.setup()
            await service.close()

    with _DESCRIPTIONS:
        if not _READ:
            asyncio.run(read())
            _READ.update(_BINDINGS)


def _service(space: str, address: str, login: Login | None, ahead: timedelta | None) -> ONVIFService:
    file, binding = _BINDINGS[space]
    return ONVIFService(
        address,
        login.username if login else "",
        login.password.get_secret_value() if login else "",
        str(_WSDL / file),
        no_cache=True,
        dt_diff=ahead,
        binding_name=f"{{{space}}}{binding}",
    )


class _BoundedAnswer(aiohttp.ClientResponse):
    """An answer that ends, unpacked."""

    async def read(self) -> bytes:
        content = bytearray()
        async for piece in self.content.iter_any():
            content += piece
            if len(content) > _ANSWER_BYTES_MAX:
                self.close()
                raise aiohttp.ClientPayloadError(f"its answer is larger than {_ANSWER_BYTES_MAX / 1e6:.0f} MB")
        return bytes(content)


async def _stay(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Follow a camera to another door of its own only: it could send us, login and all, to anybody."""
    answer = await handler(request)
    host = urlsplit(answer.headers.get("Location", "")).hostname
    if 300 <= answer.status < 400 and host not in (None, request.url.host):
        answer.close()
        raise aiohttp.ClientPayloadError("it sends whoever asks to another host")
    return answer


def open_session(login: Login | None) -> aiohttp.ClientSession:
    """Connections to one camera; they log in by a digest where it asks for that: newer ones take nothing else."""
    middlewares: list[aiohttp.ClientMiddlewareType] = [_stay]
    if login is not None:
        middlewares.append(aiohttp.DigestAuthMiddleware(login.username, login.password.get_secret_value()))
    # A camera's certificate is its own; nobody could vouch for it.
    connector = aiohttp.TCPConnector(ssl=False)
    return aiohttp.ClientSession(connector=connector, response_class=_BoundedAnswer, middlewares=middlewares)


def _is_no_soap(error: Exception) -> bool:
    """What the library makes of a web page: a fault that nobody has sent."""
    return isinstance(error, zeep.exceptions.Fault) and error.code is None


def _words(error: Exception) -> str:
    words = str(error) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]} ..."
