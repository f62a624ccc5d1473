"""Talking to one camera over ONVIF, with plain methods: what it is, where its streams are, how it is set."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from config import TransientError
from config.registry import Login
from fleet.discovery.device import (
    CameraSetup,
    CameraStreams,
    DeviceFacts,
    Encoding,
    EncodingChange,
    SetupChange,
    Stream,
    choose_streams,
    device_service,
    scope_value,
)
from fleet.discovery.soap import Conversation, LoginRefusedError, NoOnvifError, open_session, read_descriptions

__all__ = ["LoginRefusedError", "NoOnvifError", "OnvifCamera"]

_NAME_SCOPE = "onvif://www.onvif.org/name/"
_STREAM_SCHEMES = ("rtsp://", "rtsps://")
"""Anything else that a camera names may be a file of the machine that is to open it."""
_TEXT_MAX = 1024
_KBPS = 1000

_T = TypeVar("_T")


class OnvifCamera:
    """One camera that speaks ONVIF; nothing is asked before the first call.

    Concurrency: one thread at a time, which runs no event loop of its own.

    Args:
        address: its device service, or ``HOST[:PORT]``.
        login: how to log in; None asks only what everybody may, which for many cameras is nothing.
        timeout_s: for the whole of one call.
    """

    def __init__(self, address: str, login: Login | None = None, *, timeout_s: float = 15.0) -> None:
        self.address = device_service(address)
        self._login = login
        self._timeout_s = timeout_s

    def describe(self) -> DeviceFacts:
        """Which thing it is.

        Raises:
            LoginRefusedError: it does not take the login.
            NoOnvifError: it does not speak ONVIF.
            TransientError: it does not answer.
        """
        return self._ask(_describe)

    def streams(self) -> CameraStreams:
        """Its best stream, and the one to look at.

        Raises:
            VigilError: as :meth:`describe`.
        """
        return self._ask(_streams)

    def snapshot(self) -> bytes | None:
        """A JPEG of now; None where the camera has no such thing.

        Raises:
            VigilError: as :meth:`describe`.
        """
        return self._ask(_snapshot)

    def settings(self) -> CameraSetup:
        """What it is set to.

        Raises:
            VigilError: as :meth:`describe`.
        """
        return self._ask(_settings)

    def offers(self) -> tuple[str, ...]:
        """What its best stream can be set to, in words; empty where it does not tell.

        Raises:
            VigilError: as :meth:`describe`.
        """
        return self._ask(_offers)

    def apply(self, change: SetupChange) -> None:
        """Set it. A camera may answer well and take something else: read :meth:`settings` afterwards.

        Raises:
            VigilError: as :meth:`describe`.
        """
        self._ask(lambda talk: _apply(talk, change))

    def reboot(self) -> str:
        """Have it start again, and return what it says to that.

        Raises:
            VigilError: as :meth:`describe`.
        """
        return self._ask(_reboot)

    def _ask(self, question: Callable[[Conversation], Awaitable[_T]]) -> _T:
        async def whole() -> _T:
            async with asyncio.timeout(self._timeout_s), Conversation(self.address, self._login) as talk:
                return await question(talk)

        where = urlsplit(self.address)
        read_descriptions()
        try:
            return asyncio.run(whole())
        except TimeoutError as error:
            raise TransientError(
                f"{where.netloc} did not answer within {self._timeout_s:.0f} s: look whether it is up and reachable"
            ) from error
        except aiohttp.ClientError as error:
            raise TransientError(f"{where.netloc} cannot be reached over ONVIF: {_reason(error)}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # What its description promises may be missing or be nonsense, anywhere in an answer.
            raise NoOnvifError(f"{where.netloc} gives an answer that makes no sense: {error}") from error


async def _describe(talk: Conversation) -> DeviceFacts:
    told = await talk.device("GetDeviceInformation")
    await talk.services()
    scopes = await _scopes(talk)
    return DeviceFacts(
        manufacturer=_text(told.Manufacturer),
        model=_text(told.Model),
        serial=_text(told.SerialNumber),
        firmware=_text(told.FirmwareVersion),
        mac=await _mac(talk),
        name=scope_value(scopes, "name"),
        location=scope_value(scopes, "location"),
        ahead_s=talk.ahead.total_seconds() if talk.ahead is not None else None,
        services=talk.service_names(),
    )


async def _scopes(talk: Conversation) -> list[str]:
    try:
        return [_text(one.ScopeItem) for one in await talk.device("GetScopes") or ()]
    except NoOnvifError:
        return []


async def _mac(talk: Conversation) -> str | None:
    try:
        cards = await talk.device("GetNetworkInterfaces") or ()
    except NoOnvifError:
        return None
    for card in cards:
        digits = re.sub(r"[^0-9a-f]", "", _text(card.Info.HwAddress if card.Info else "").lower())
        if len(digits) == 12 and digits.strip("0"):
            return ":".join(digits[start : start + 2] for start in range(0, 12, 2))
    return None


async def _streams(talk: Conversation) -> CameraStreams:
    chosen = choose_streams([await _stream(talk, profile) for profile in await _profiles(talk)])
    if chosen is None:
        raise NoOnvifError(f"{urlsplit(talk.address).netloc} has no profile with a video: make one in its settings")
    return chosen


async def _profiles(talk: Conversation) -> list[Any]:
    found = await talk.media("GetProfiles") or ()
    return [profile for profile in found if profile.VideoEncoderConfiguration is not None]


async def _stream(talk: Conversation, profile: Any) -> Stream:  # noqa: ANN401
    wanted = {"Stream": "RTP-Unicast", "Transport": {"Protocol": "RTSP"}}
    told = await talk.media("GetStreamUri", {"StreamSetup": wanted, "ProfileToken": profile.token})
    source, uri = profile.VideoSourceConfiguration, talk.reachable(_text(told.Uri))
    if not uri.startswith(_STREAM_SCHEMES):
        raise NoOnvifError(f"{urlsplit(talk.address).netloc} names {uri[:80]!r} as its stream, which is not RTSP")
    return Stream(
        profile=profile.token,
        uri=uri,
        encoding=_encoding(profile.VideoEncoderConfiguration),
        encoder=_text(profile.VideoEncoderConfiguration.token),
        lens=_text(source.SourceToken) if source is not None else "",
    )


def _encoding(told: Any) -> Encoding:  # noqa: ANN401
    size, rate = told.Resolution, told.RateControl
    return Encoding(
        codec=_text(told.Encoding).lower(),
        width=int(size.Width) if size else 0,
        height=int(size.Height) if size else 0,
        fps=int(rate.FrameRateLimit) if rate else 0,
        bitrate_bps=int(rate.BitrateLimit) * _KBPS if rate else 0,
    )


async def _snapshot(talk: Conversation) -> bytes | None:
    main = (await _streams(talk)).main
    try:
        told = await talk.media("GetSnapshotUri", {"ProfileToken": main.profile})
    except NoOnvifError:
        return None
    uri = talk.reachable(_text(told.Uri)) if told is not None and told.Uri else ""
    return await _picture(uri, talk.login) if uri.startswith(("http://", "https://")) else None


async def _picture(uri: str, login: Login | None) -> bytes | None:
    """Get it with a digest, which most ask for; the password itself goes only to one that asks for that."""
    found, asked = await _read_picture(uri, login)
    if found is not None or login is None or not asked.lower().startswith("basic"):
        return found
    word = base64.b64encode(f"{login.username}:{login.password.get_secret_value()}".encode()).decode()
    return (await _read_picture(uri, None, {"Authorization": f"Basic {word}"}))[0]


async def _read_picture(
    uri: str, login: Login | None, headers: Mapping[str, str] | None = None
) -> tuple[bytes | None, str]:
    """The picture, and how the camera asks for a login where it does."""
    async with open_session(login) as session, session.get(uri, headers=headers) as answer:
        if answer.status != 200:
            return None, answer.headers.get("WWW-Authenticate", "")
        content = await answer.read()
        return (content if content.startswith(b"\xff\xd8") else None), ""


async def _settings(talk: Conversation) -> CameraSetup:
    streams = await _streams(talk)
    return CameraSetup(
        name=scope_value(await _scopes(talk), "name"),
        ahead_s=talk.ahead.total_seconds() if talk.ahead is not None else None,
        main=streams.main.encoding,
        sub=streams.sub.encoding if streams.sub else None,
    )


async def _offers(talk: Conversation) -> tuple[str, ...]:
    main = (await _streams(talk)).main
    asked = {"ConfigurationToken": main.encoder, "ProfileToken": main.profile}
    try:
        told = await talk.media("GetVideoEncoderConfigurationOptions", asked)
    except NoOnvifError:
        return ()
    found = []
    for codec in ("H264", "MPEG4", "JPEG"):
        options = getattr(told, codec, None)
        if options is not None:
            sizes = ", ".join(f"{one.Width}x{one.Height}" for one in options.ResolutionsAvailable or ())
            rate = options.FrameRateRange
            found.append(f"{codec.lower()}: {sizes}" + (f", {rate.Min} to {rate.Max} fps" if rate else ""))
    return tuple(found)


async def _apply(talk: Conversation, change: SetupChange) -> None:
    if change.time:
        await _set_time(talk)
    if change.name is not None:
        await _set_name(talk, change.name)
    if change.main is None and change.sub is None:
        return
    streams = await _streams(talk)
    for stream, wanted in ((streams.main, change.main), (streams.sub, change.sub)):
        if wanted is not None and stream is not None:
            await _set_encoding(talk, stream, wanted)


async def _set_time(talk: Conversation) -> None:
    told = await talk.device("GetSystemDateAndTime")
    now = datetime.now(UTC)
    zone = {"TimeZone": {"TZ": told.TimeZone.TZ}} if told.TimeZone is not None else {}
    await talk.device(
        "SetSystemDateAndTime",
        {
            "DateTimeType": "Manual",
            "DaylightSavings": bool(told.DaylightSavings),
            **zone,
            "UTCDateTime": {
                "Time": {"Hour": now.hour, "Minute": now.minute, "Second": now.second},
                "Date": {"Year": now.year, "Month": now.month, "Day": now.day},
            },
        },
    )
    await talk.close()  # what follows is stamped with the time it has now
    talk.ahead = timedelta(0)


async def _set_name(talk: Conversation, name: str) -> None:
    told = await talk.device("GetScopes") or ()
    kept = [_text(one.ScopeItem) for one in told if _text(one.ScopeDef) == "Configurable"]
    others = [one for one in kept if not one.startswith(_NAME_SCOPE)]
    await talk.device("SetScopes", {"Scopes": [*others, f"{_NAME_SCOPE}{quote(name, safe='')}"]})


async def _set_encoding(talk: Conversation, stream: Stream, wanted: EncodingChange) -> None:
    held = await talk.media("GetVideoEncoderConfiguration", {"ConfigurationToken": stream.encoder})
    if wanted.codec is not None:
        held.Encoding = wanted.codec.upper()
    if wanted.size_px is not None:
        held.Resolution.Width, held.Resolution.Height = wanted.size_px
    if held.RateControl is None and (wanted.fps is not None or wanted.bitrate_bps is not None):
        held.RateControl = {"FrameRateLimit": stream.encoding.fps, "EncodingInterval": 1, "BitrateLimit": 0}
    if wanted.fps is not None:
        held.RateControl.FrameRateLimit = wanted.fps
    if wanted.bitrate_bps is not None:
        held.RateControl.BitrateLimit = wanted.bitrate_bps // _KBPS
    await talk.media("SetVideoEncoderConfiguration", {"Configuration": held, "ForcePersistence": True})


async def _reboot(talk: Conversation) -> str:
    return _text(await talk.device("SystemReboot"))


def _reason(error: aiohttp.ClientError) -> str:
    number = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    return os.strerror(number) if number else str(error)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()[:_TEXT_MAX]
