"""A Frigate configuration as cameras of the registry. Pure.

Carried over: streams and their roles, ONVIF address and logins, zones, masks, objects, review alerts, recording and its
retention, rates. What has no counterpart is listed with where Vigil has the like.

Source: Frigate's full reference configuration (docs/configuration, versions 0.13 to 0.17).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from config.logins import split_login
from config.registry import Login
from fleet.registry.imported import Imported, Section, free_name

__all__ = ["looks_like_frigate", "read_frigate"]

_INSTEAD = {
    "mqtt": "`bus.url`, `bus.username` of the site file, or `vigil up`'s own broker",
    "detectors": "`vigil detector` on any machine; `vigil bench` measures it",
    "model": "`vigil models use`",
    "database": "none is needed: what is known comes from files and retained messages",
    "auth": "`vigil ca init`, `vigil enrol --person`",
    "proxy": "a proxy of your own before `console.host`",
    "tls": "`vigil up --secure`",
    "logger": "`log.level` of the site file",
    "environment_vars": "the service's environment",
    "ffmpeg": "GStreamer decodes; `decoder` of a camera names another decoder",
    "go2rtc": "restreaming is not done; the addresses behind it were taken for the cameras",
    "snapshots": "every escalation carries its picture; `bridge.retention` says how long",
    "birdseye": "the web page shows every camera",
    "live": "the web page, and `vigil camera set NAME mode zoom`",
    "ui": "the web page has no such setting",
    "camera_groups": "`area` of a camera",
    "notifications": "Home Assistant, or a consumer of escalations",
    "telemetry": "`metrics.port`",
    "record.export": "`vigil footage`, `vigil camera set NAME clip`",
    "record.sub": "only `source` is recorded",
    "detect.min_initialized": "`detector.tracking.confirm_s`, in seconds, for all cameras",
    "detect.max_disappeared": "`detector.tracking.lost_s`, in seconds, for all cameras",
    "detect.stationary": "`detector.tracking.still_s`, and rules of the kind `long-time-still`",
    "detect.width": "the picture keeps its shape; its height was taken",
    "onvif.autotracking": "cameras are not moved",
    "review.detections": "every object is published as a track",
    "webui_url": "`vigil discover` finds it",
    "mqtt.enabled": "frames are published always",
}
_INSTEAD_ANYWHERE = {
    "distances": "speed is not estimated",
    "speed_threshold": "speed is not estimated",
    "inertia": "`detector.tracking.confirm_s`, in seconds, for all cameras",
    "min_area": "objects are not judged by their size",
    "max_area": "objects are not judged by their size",
    "min_ratio": "objects are not judged by their shape",
    "max_ratio": "objects are not judged by their shape",
    "min_score": "`detector.tracking.min_score`, for all cameras",
}
_BY_ITSELF = frozenset({"version", "safe_mode"})
"""Says nothing about cameras."""
_HINTS_ANYWHERE = ("audio", "face_recognition", "lpr", "genai", "semantic_search", "classification", "triggers")
_MODEL_LABELS_ONLY = frozenset(
    {"amazon", "dhl", "face", "fedex", "license_plate", "package", "ups", "usps", "waste_bin"}
)
"""Labels of Frigate's own models; a camera that asked for them would find no worker."""
_GO2RTC = re.compile(r"rtsp://(127\.0\.0\.1|localhost):8554/([^/?#]+)")
_VARIABLE = re.compile(r"\{(FRIGATE_[A-Z0-9_]+)\}")
_Points = list[tuple[float, float]]
_DAY_H = 24
_EVENTS_KEPT_H = 1.0
"""Where only what belongs to an event is kept, the rest still waits so long for an event to claim it."""


def looks_like_frigate(document: object) -> bool:
    """Whether this is a Frigate configuration: cameras with `ffmpeg` inputs."""
    cameras = document.get("cameras") if isinstance(document, Mapping) else None
    return isinstance(cameras, Mapping) and any(
        isinstance(camera, Mapping) and "ffmpeg" in camera for camera in cameras.values()
    )


def read_frigate(document: Mapping[str, Any], environment: Mapping[str, str]) -> Imported:
    """Take over what Vigil has, too.

    Args:
        document: the content of its ``config.yml``.
        environment: values for ``{FRIGATE_...}`` in it.

    Returns:
        Cameras, logins, and what was left. Nothing was checked against the settings' limits yet.
    """
    root = Section(document)
    imported = Imported()
    addresses = _Addresses(root.below("go2rtc").below("streams").whole(), environment, imported)
    cameras = root.below("cameras")
    for name in list(cameras):
        _Camera(name, root, cameras.below(name), addresses, imported).read()
    for place in root.left():
        imported.leave(place, _reason(place))
    return imported


def _reason(place: str) -> str:
    levels = place.split(".")
    if levels[0] == "cameras":
        levels = levels[2:]
    if not levels or levels[0] in _BY_ITSELF:
        return "says nothing about cameras"
    if any(level in _HINTS_ANYWHERE for level in levels[:2]):
        return "Vigil has no such analysis"
    for depth in range(len(levels), 0, -1):
        instead = _INSTEAD.get(".".join(levels[:depth]))
        if instead is not None:
            return instead
    return _INSTEAD_ANYWHERE.get(levels[-1], "no counterpart")


class _Addresses:
    """Where pictures come from, behind go2rtc and the environment."""

    def __init__(self, streams: Mapping[str, Any], environment: Mapping[str, str], imported: Imported) -> None:
        self._streams = streams
        self._environment = environment
        self._imported = imported

    def of(self, path: str, place: str) -> str:
        restreamed = _GO2RTC.match(path)
        if restreamed:
            path = self._behind(restreamed[2], place)
        filled = _VARIABLE.sub(lambda match: self._environment.get(match[1], match[0]), path)
        unset = _VARIABLE.search(filled)
        if unset:
            self._imported.leave(
                place, f"set {unset[1]} in the environment and import again, or write the login into logins.yaml"
            )
            filled = re.sub("://:?@", "://", _VARIABLE.sub("", filled))
        return filled if "://" in filled else f"file:{filled}"

    def _behind(self, name: str, place: str) -> str:
        """The address that go2rtc restreams."""
        found = self._streams.get(name)
        sources = [found] if isinstance(found, str) else list(found or ())
        for source in sources:
            plain = str(source).removeprefix("ffmpeg:").partition("#")[0]
            if re.match(r"(rtsps?|https?)://", plain):
                return plain
        self._imported.leave(place, f"go2rtc has no plain address behind {name!r}: write `source`")
        return f"rtsp://127.0.0.1:8554/{name}"


class _Camera:
    """One camera; where it says nothing, what stands at the top of the file holds."""

    def __init__(self, name: str, root: Section, own: Section, addresses: _Addresses, imported: Imported) -> None:
        self._frigate_name = name
        self._name = free_name(name, imported.cameras)
        self._root = root
        self._own = own
        self._addresses = addresses
        self._imported = imported
        self._entry: dict[str, Any] = {}

    def read(self) -> None:
        self._imported.cameras[self._name] = self._entry
        if self._name != self._frigate_name:
            self._imported.note(f"cameras.{self._frigate_name}", f"is called {self._name!r} here")
        friendly = self._own.take("friendly_name")
        if friendly:
            self._entry["name"] = str(friendly)
        if self._own.take("enabled", default=True) is False:
            self._entry["excluded"] = True
        self._read_streams()
        self._read_onvif()
        self._read_detect()
        self._read_zones()
        self._read_objects()
        self._read_motion()
        self._read_record()
        self._read_rules()

    # --- where its pictures come from ---------------------------------------------------------------------------------

    def _read_streams(self) -> None:
        ffmpeg = self._own.below("ffmpeg")
        by_role: dict[str, str] = {}
        for number, stream in enumerate(ffmpeg.take("inputs", default=())):
            part = Section(stream, f"{ffmpeg.place('inputs')}.{number}")
            path = self._addresses.of(str(part.take("path", default="")), part.place("path"))
            for role in part.take("roles", default=()):
                if role in {"detect", "record"}:
                    by_role.setdefault(role, path)
                else:
                    self._imported.leave(f"{part.place('roles')}.{role}", "Vigil looks, and does not listen")
            for place in part.left():
                self._imported.leave(place, _INSTEAD["ffmpeg"])
        main = by_role.get("record") or by_role.get("detect")
        if not main:
            self._imported.leave(ffmpeg.place("inputs"), "no input has the role `detect` or `record`: write `source`")
            return
        self._entry["source"] = self._without_login(main)
        watched = by_role.get("detect")
        if watched and watched != main:
            self._entry["sub_source"] = self._without_login(watched)

    def _without_login(self, uri: str) -> str:
        plain, login = split_login(uri)
        if login is not None:
            self._imported.logins[self._name] = login
        return plain

    def _read_onvif(self) -> None:
        onvif = self._own.below("onvif")
        host = str(onvif.take("host", default=""))
        if not host:
            return
        scheme, _, rest = host.rpartition("://")
        address = f"{scheme or 'http'}://{rest}:{onvif.take('port', default=80)}/onvif/device_service"
        self._entry["device"] = {"onvif": address}
        user, password = onvif.take("user"), onvif.take("password")
        known = self._imported.logins.get(self._name)
        if user and (known is None or not known.password.get_secret_value()):
            self._imported.logins[self._name] = Login(username=str(user), password=SecretStr(str(password or "")))

    # --- what is looked at --------------------------------------------------------------------------------------------

    def _read_detect(self) -> None:
        enabled = self._value("detect", "enabled")
        if enabled is not None:
            self._entry["detection"] = bool(enabled)
        fps = self._value("detect", "fps")
        if fps is not None:
            self._entry["motion_fps"] = float(fps)
        height = self._value("detect", "height")
        if height is not None:
            self._entry["frame_height_px"] = int(height)
            self._entry["zoom_height_px"] = max(1080, int(height))

    def _read_zones(self) -> None:
        zones = self._own.below("zones")
        for name in list(zones):
            zone = zones.below(name)
            if zone.take("enabled", default=True) is False:
                self._imported.leave(zone.place("enabled"), "the zone is switched off")
                zone.whole()
                continue
            points = self._polygon(zone.take("coordinates"), zone.place("coordinates"))
            if points is None:
                continue
            labels = zone.take("objects", default=())
            content: dict[str, Any] = {"points": points}
            if labels:
                content["labels"] = [labels] if isinstance(labels, str) else [str(label) for label in labels]
            self._put_zone(name, content, zone.place(""))
            loiters_s = float(zone.take("loitering_time", default=0))
            if loiters_s > 0:
                self._imported.note(zone.place("loitering_time"), "a rule of the kind `dwell`")
                for label in content.get("labels") or ["person"]:
                    rule = {"kind": "dwell", "label": label, "zones": [name], "for_s": loiters_s}
                    self._rules()[f"dwell-{name}-{label}"] = rule

    def _put_zone(self, name: str, content: Mapping[str, Any], place: str) -> None:
        zones = self._entry.setdefault("zones", {})
        free = free_name(name, zones)
        if free != name:
            self._imported.note(place.rstrip("."), f"is called {free!r} here")
        zones[free] = dict(content)

    def _read_objects(self) -> None:
        track = self._value("objects", "track")
        wanted = [str(label) for label in track or ()]
        for label in wanted:
            if label in _MODEL_LABELS_ONLY:
                self._imported.leave(self._place("objects", "track", label), "a label of Frigate's own models")
        if wanted:
            self._entry["labels"] = [label for label in wanted if label not in _MODEL_LABELS_ONLY]
        for number, (points, place) in enumerate(self._masks("objects", "mask")):
            self._put_zone(f"no-objects-{number + 1}", {"points": points, "kind": "exclude"}, place)
        for label, filters in self._filters().items():
            for number, points in enumerate(self._polygons(filters.take("mask"), filters.place("mask"))):
                zone = {"points": points, "kind": "exclude", "labels": [label]}
                self._put_zone(f"no-{label}-{number + 1}", zone, filters.place("mask"))

    def _filters(self) -> dict[str, Section]:
        """Filters by label; the camera's own above the common ones."""
        common = self._root.below("objects").below("filters")
        own = self._own.below("objects").below("filters")
        return {label: (own if label in own else common).below(label) for label in dict.fromkeys((*common, *own))}

    def _read_motion(self) -> None:
        motion: dict[str, Any] = {}
        masks = {f"mask-{number + 1}": points for number, (points, _) in enumerate(self._masks("motion", "mask"))}
        if masks:
            motion["masks"] = masks
        area = self._value("motion", "contour_area")
        if area is not None:
            motion["sensitivity"] = round(min(1.0, max(0.0, 0.875 - float(area) / 80)), 2)
            self._imported.note(self._place("motion", "contour_area"), f"sensitivity {motion['sensitivity']}")
        off_delay_s = self._value("motion", "mqtt_off_delay")
        if off_delay_s is not None:
            motion["hold_s"] = float(off_delay_s)
        if motion:
            self._entry["motion"] = motion

    # --- what is kept -------------------------------------------------------------------------------------------------

    def _read_record(self) -> None:
        if not self._value("record", "enabled"):
            return
        continuous_days = self._number("record", "continuous", "days")
        motion_days = self._number("record", "motion", "days")
        retained_days = self._number("record", "retain", "days")
        kind = self._value("record", "retain", "mode")
        if retained_days and kind in {None, "all"}:
            continuous_days = max(continuous_days, retained_days)
        elif retained_days:
            motion_days = max(motion_days, retained_days)
        mode = "continuous" if continuous_days else "motion"
        if continuous_days and motion_days > continuous_days:
            self._imported.note(self._place("record", "motion"), "everything is kept for as long as movement")
        keep_h = max(continuous_days, motion_days) * _DAY_H or _EVENTS_KEPT_H
        event_days = max(
            self._number("record", "alerts", "retain", "days"),
            self._number("record", "detections", "retain", "days"),
            self._number("record", "events", "retain", "default"),
        )
        recording: dict[str, Any] = {"mode": mode, "keep_hours": keep_h}
        if event_days:
            recording["protect_hours"] = event_days * _DAY_H
        for ours, theirs in (("pre_s", "pre_capture"), ("post_s", "post_capture")):
            seconds = max(self._number("record", part, theirs) for part in ("alerts", "detections", "events"))
            if seconds:
                recording[ours] = seconds
        self._entry["recording"] = recording

    # --- what a person should know ------------------------------------------------------------------------------------

    def _read_rules(self) -> None:
        alerts = ("review", "alerts")
        is_said = "review" in self._own or "review" in self._root
        if not is_said or self._value(*alerts, "enabled") is False:
            return
        labels = self._value(*alerts, "labels") or ("person", "car")
        zones = self._required_zones(*alerts)
        if zones is None:
            return
        cooldown_s = self._value(*alerts, "cutoff_time")
        for label in labels:
            if label in _MODEL_LABELS_ONLY:
                continue
            rule: dict[str, Any] = {"kind": "presence", "label": str(label)}
            if zones:
                rule["zones"] = zones
            if cooldown_s is not None:
                rule["cooldown_s"] = float(cooldown_s)
            least = self._least_score(str(label))
            if least is not None:
                rule["min_score"] = least
            # The site's own rule for people is called so, and would raise everything a second time.
            self._rules()["presence" if label == "person" else f"presence-{label}"] = rule

    def _required_zones(self, *path: str) -> list[str] | None:
        """Zones of this camera that an alert needs; None where it needs some, and the camera has none of them."""
        wanted = self._value(*path, "required_zones") or ()
        names = [wanted] if isinstance(wanted, str) else [str(zone) for zone in wanted]
        known = [name for name in names if name in self._entry.get("zones", {})]
        if names and not known:
            self._imported.leave(self._place(*path, "required_zones"), f"the camera has no zone {', '.join(names)}")
            return None
        return known

    def _least_score(self, label: str) -> float | None:
        filters = self._filters().get(label)
        threshold = None if filters is None else filters.take("threshold")
        return None if threshold is None else float(threshold)

    def _rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = self._entry.setdefault("rules", {})
        return rules

    # --- values, the camera's own above the common ones ---------------------------------------------------------------

    def _value(self, *path: str) -> Any:  # noqa: ANN401 - as the file has it
        *sections, key = path
        found = None
        for section in (self._root, self._own):
            for name in sections:
                section = section.below(name)  # noqa: PLW2901 - the walk down
            value = section.take(key)
            found = found if value is None else value
        return found

    def _number(self, *path: str) -> float:
        return float(self._value(*path) or 0)

    def _place(self, *path: str) -> str:
        return ".".join(("cameras", self._frigate_name, *path))

    def _masks(self, section: str, key: str) -> Iterator[tuple[_Points, str]]:
        for part in (self._root, self._own):
            place = part.below(section).place(key)
            for points in self._polygons(part.below(section).take(key), place):
                yield points, place

    # --- polygons -----------------------------------------------------------------------------------------------------

    def _polygons(self, value: Any, place: str) -> Iterator[_Points]:  # noqa: ANN401 - as the file has it
        """One polygon, a list of them, or several by name."""
        if value is None:
            return
        if isinstance(value, Mapping):
            for name, mask in value.items():
                if isinstance(mask, Mapping) and mask.get("enabled", True) is not False:
                    yield from self._polygons(mask.get("coordinates"), f"{place}.{name}")
            return
        for one in value if _is_list_of_polygons(value) else (value,):
            points = self._polygon(one, place)
            if points is not None:
                yield points

    def _polygon(self, value: Any, place: str) -> _Points | None:  # noqa: ANN401 - as the file has it
        """Corners as fractions of the picture; None where they cannot be read."""
        parts = value.split(",") if isinstance(value, str) else value
        try:
            flat = [float(number) for part in parts or () for number in str(part).split(",")]
        except (TypeError, ValueError):
            self._imported.leave(place, f"{str(value)[:60]!r} are no coordinates x1,y1,x2,y2,…")
            return None
        if len(flat) < 6 or len(flat) % 2:
            self._imported.leave(place, "a polygon has three corners at least, each with x and y")
            return None
        points = list(zip(flat[::2], flat[1::2], strict=True))
        if max(flat) > 1.0:
            width, height = self._value("detect", "width"), self._value("detect", "height")
            if not width or not height:
                self._imported.leave(place, "coordinates in pixels, of a picture whose `detect` says no size")
                return None
            points = [(x / float(width), y / float(height)) for x, y in points]
        return [(round(min(1.0, max(0.0, x)), 4), round(min(1.0, max(0.0, y)), 4)) for x, y in points]


def _is_list_of_polygons(value: object) -> bool:
    """A list of texts with commas, or of lists; a list of numbers, or of texts with one each, is one polygon."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and any("," in str(part) or part == "" for part in value)
    )
