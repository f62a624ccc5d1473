"""Settings out of the environment: ``VIGIL_BUS__URL`` for ``bus.url``.

Not by a library: pydantic-settings reads a dozen other places, and a camera node's start would take a tenth longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, get_args, get_origin

from pydantic import BaseModel

from config.errors import ConfigError

__all__ = ["fields_at", "layered", "read_environment"]

_PREFIX = "vigil_"
_DELIMITER = "__"


def read_environment(model: type[BaseModel], environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings in an environment, nested like the model; what is no setting of it is somebody else's.

    Names are of either case. A setting that is a list or a whole section is written as JSON.

    Args:
        model: all settings.
        environment: variables.

    Raises:
        ConfigError: what should be JSON is none. The value is not repeated: it may be secret.
    """
    settings: dict[str, Any] = {}
    for variable, text in environment.items():
        name = variable.lower()
        place = name.removeprefix(_PREFIX).split(_DELIMITER)
        if name.startswith(_PREFIX) and place[0] in model.model_fields:
            value = _read(_annotation_at(model, place), text, variable)
            for part in reversed(place):
                value = {part: value}
            settings = layered(settings, value)
    return settings


def _read(annotation: object, text: str, variable: str) -> Any:  # noqa: ANN401 - what a setting may be
    if _inside(annotation) is None:
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigError(
            f"{variable} is not JSON: give each setting a variable of its own, such as VIGIL_BUS__URL"
        ) from None


def _is_compound(annotation: object) -> bool:
    """Whether text cannot be it."""
    return _is_section(annotation) or get_origin(annotation) in (dict, list, tuple)


def _is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inside(annotation: object) -> object:
    """The section, mapping or list that a type is, or may be; None where it is none."""
    return next((one for one in (annotation, *get_args(annotation)) if _is_compound(one)), None)


def _annotation_at(model: type[BaseModel], place: Sequence[str]) -> object:
    """The type of a setting.

    Args:
        model: all settings.
        place: names of sections, names in a mapping, numbers in a list.

    Returns:
        None where there is no such setting.
    """
    annotation: object = model
    for part in place:
        inside = _inside(annotation)
        if _is_section(inside):
            field = inside.model_fields.get(part)
            annotation = field.annotation if field is not None else None
        else:
            annotation = get_args(inside)[1 if get_origin(inside) is dict else 0] if inside is not None else None
    return annotation


def fields_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    """Names of the settings of the section in this place, in order of the alphabet; none where there is no section."""
    inside = _inside(_annotation_at(model, place))
    return sorted(inside.model_fields) if _is_section(inside) else []


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One nested mapping of two; where both have a value, `above` holds."""
    together = dict(below)
    for key, value in above.items():
        lower = together.get(key)
        if isinstance(lower, Mapping) and isinstance(value, Mapping):
            together[key] = layered(lower, value)
        else:
            together[key] = value
    return together
