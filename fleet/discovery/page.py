"""All cameras that were found, on one page with their pictures: a file that any browser opens."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from fleet.discovery.cameras import Camera

__all__ = ["make_page"]

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #f4f4f2; color: #222; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
article { background: #fff; border-radius: .5rem; overflow: hidden; box-shadow: 0 1px 3px #0003; }
figure { margin: 0; aspect-ratio: 16 / 9; background: #ccc; display: grid; place-items: center; }
img { width: 100%; height: 100%; object-fit: contain; }
div { padding: .75rem 1rem; } h2 { margin: 0; font-size: 1.1rem; } p { margin: .25rem 0; overflow-wrap: anywhere; }
.trouble { color: #a33; } .known { color: #276; }
"""


def make_page(cameras: Sequence[Camera], names: Mapping[str, str], at: datetime) -> str:
    """The page.

    Args:
        cameras: what was found.
        names: proposed ones, by host.
        at: when that was.
    """
    articles = "\n".join(_article(camera, names.get(camera.sighting.host, "")) for camera in cameras)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Cameras found by Vigil</title>'
        f"<style>{_STYLE}</style></head><body><h1>{len(cameras)} found, {at:%Y-%m-%d %H:%M}</h1>\n"
        f"<main>\n{articles}\n</main></body></html>\n"
    )


def _article(camera: Camera, name: str) -> str:
    picture = "no picture"
    if camera.picture is not None:
        content = base64.b64encode(camera.picture).decode()
        picture = f'<img alt="{escape(name or camera.sighting.host)}" src="data:image/jpeg;base64,{content}">'
    lines = [f"<h2>{escape(camera.known_as or name or camera.sighting.host)}</h2>", _line(camera.sighting.host)]
    if camera.facts is not None:
        facts = camera.facts
        lines.append(_line(f"{facts.manufacturer} {facts.model}, {facts.firmware}, {facts.mac or ''}".strip(" ,")))
    if camera.streams is not None:
        found = (camera.streams.main, camera.streams.sub)
        lines += [_line(f"{stream.encoding}: {stream.uri}") for stream in found if stream is not None]
    if camera.known_as is not None:
        lines.append('<p class="known">in the registry</p>')
    if camera.trouble:
        lines.append(f'<p class="trouble">{escape(camera.trouble)}</p>')
    return f"<article><figure>{picture}</figure><div>{''.join(lines)}</div></article>"


def _line(text: str) -> str:
    return f"<p>{escape(text)}</p>"
