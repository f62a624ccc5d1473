"""YAML that people and Vigil both write: read as plain values, changed with its comments and its order kept.

YAML 1.2, in which ``off`` is a word and ``22:00`` is no number: nobody has to know what to put quotes around.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from config import ConfigError
from config.sources import explain_yaml

__all__ = ["changed_text", "new_text", "read_mapping"]

_WIDTH = 120
_DEEPER_LIST = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1 +- ", re.MULTILINE)
"""A list that stands further in than the key that it belongs to."""


class _Words(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of two, as PyYAML was built
    """Reads with YAML 1.2's idea of what is a number or a truth value; a hundred times as fast as ruamel does."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _kind, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _Words.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_mapping(text: str, file: Path) -> dict[str, Any]:
    """What a file says, as plain values; an empty one says nothing.

    Raises:
        ConfigError: it is not YAML, no mapping, or says something twice. No value is repeated: it may be a password.
    """
    try:
        root = yaml.compose(text, Loader=_Words)
        if root is None:
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError("the file must be a mapping such as 'name: Garden'", file=file, line=1)
        _refuse_repeated(root, file)
        return dict(yaml.SafeLoader("").construct_document(root))
    except yaml.YAMLError as error:
        raise explain_yaml(error, file) from None


def _refuse_repeated(node: yaml.Node, file: Path) -> None:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated(item, file)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError("this key stands there twice: leave one of them out", file=file, line=line)
            seen.add(str(key.value))
            _refuse_repeated(value, file)


def changed_text(text: str, changes: Mapping[str, Any]) -> str:
    """The text with other values, and everything else as it was.

    Args:
        text: what :func:`read_mapping` takes.
        changes: nested like it; None takes a key away.
    """
    round_trip = _round_trip(text)
    document = round_trip.load(text)
    if document is None:
        return text + new_text(changes)
    _change(document, changes)
    stream = io.StringIO()
    round_trip.dump(document, stream)
    return stream.getvalue()


def new_text(content: Mapping[str, Any]) -> str:
    """A new file's text; keys whose value is None are left out."""
    document = CommentedMap()
    _change(document, content)
    if not document:
        return ""
    stream = io.StringIO()
    _round_trip("").dump(document, stream)
    return stream.getvalue()


def _round_trip(text: str) -> YAML:
    round_trip = YAML(typ="rt", pure=True)
    round_trip.preserve_quotes = True
    round_trip.width = _WIDTH
    if _DEEPER_LIST.search(text):
        round_trip.indent(mapping=2, sequence=4, offset=2)
    return round_trip


def _change(document: CommentedMap, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, Mapping):
            below = document.get(key)
            if not isinstance(below, CommentedMap):
                below = document[key] = CommentedMap()
            _change(below, value)
        else:
            document[key] = _as_written(value)


def _as_written(value: object) -> object:
    """A value as a person would write it: points, and lists of words, on one line."""
    if isinstance(value, Mapping):
        below = CommentedMap()
        _change(below, value)
        return below
    if not isinstance(value, list | tuple):
        return value
    items = CommentedSeq(_as_written(item) for item in value)
    if not any(isinstance(item, CommentedMap) for item in items):
        items.fa.set_flow_style()
    return items
