"""Inputs that are nearly right: made by the types of the contract, then damaged.

Whoever draws decides: a seeded `random.Random` for speed, hypothesis's for its search and its shrinking.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from random import Random

import msgspec.inspect as shape

from broker.messages import FrameMeta, Message
from broker.topics import CONTRACT, TopicSpec
from tests.support.messages import jpeg

__all__ = ["big_json", "frame", "identity", "mutated", "payload", "topic"]

_ANY_VALUES = (
    "null",
    "true",
    "-1",
    "2.5",
    '""',
    '"yard"',
    "[]",
    '[0,"a",[1.5]]',
    "{}",
    '{"hold_s":3,"zones":{"a":[]}}',
)
_DEEP = 40_000
_MANY_EVERY = 500
HOSTILE_VALUES: tuple[str, ...] = (
    *("null", "true", "[]", "{}", '""', "[[]]", '{"":{}}', "-0", "-0.0", "1.0", "1e2", "01", ".5", "+1", "0x1"),
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "5e-324", "1.7976931348623159e308"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616"),
    *("9" * 400, "9" * 4300, "9" * 5000, "-" + "9" * 400, "0." + "0" * 2000 + "1", "1" * 3000 + ".5"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x"', '"\x00"', '"\udced\udca0\udc80"'),
    *('"\udcff\udcfe"', '"' + "x" * 256 + '"', '"' + "x" * 257 + '"', '"' + "\u00e9" * 4097 + '"', '"\\'),
    *("[" * 500, "[" * _DEEP, '{"a":' * 2000, "[" * 900 + "]" * 900),
    *('"2026-01-01T00:00:00+99:99"', '"2026-01-01T00:00:00+24:00"', '"2026-01-01T00:00:00+2359"'),
    *('"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"0000-01-01T00:00:00Z"'),
    *('"9999-12-31T23:59:59.9999999Z"', '"2026-02-30T00:00:00Z"', '"2026-12-31T23:59:60Z"', '"2026-01-01T24:00:00Z"'),
    *('"2026-01-01T00:00:00"', '"2026-01-01 00:00:00z"', '"2026-01-01T00:00:00.123456789123456789Z"', '"2026"', "0"),
)
"""As text, in which a lone surrogate stands for a byte that is no UTF-8."""
_BYTES_OF_NOTE = bytes((0x00, 0x01, 0x7F, 0x80, 0xC0, 0xD8, 0xD9, 0xDA, 0xE0, 0xFE, 0xFF)) + b'"\\{}[]:,/+#0-eE.'
_TOKENS: tuple[bytes, ...] = (
    *(value.encode("utf-8", "surrogateescape") for value in HOSTILE_VALUES if len(value) < 500),
    *(
        b'"v":1,',
        b'"v":2',
        b'"id":',
        b'"camera":"yard",',
        b"\xff\xd8",
        b"\xff\xd9",
        b"\xff\xfe\xff\xff",
        b"\xff\xfe\x00\x02",
    ),
    *(
        b"\xff\xda\x00\x08",
        b"\xff" * 40,
        b"\xef\xbb\xbf",
        b"\xf0\x9f\x98\x80",
        b"\xc0\xaf",
        b"/",
        b"//",
        b"+",
        b"#",
        b":",
    ),
)
_NAMES = ("yard", "node-1", "yolox", "mode", "a", "x" * 63)
_BAD_NAMES = (
    "",
    "+",
    "#",
    "$SYS",
    "a/b",
    "x" * 64,
    "x" * 5000,
    "-a",
    "a b",
    "\u00e4",
    "\x00",
    "\U0001f600",
    "a\n",
    "..",
)
_ROLES = ("edge", "detector", "detector.2", "bridge", "a" * 31)
_BAD_ROLES = ("", "Edge", "edge.", "edge.0", "edge.99999", "detector.2.3", "e" * 5000)
_JPEG = jpeg(16, 16)
_STRUCTS: dict[type[Message], shape.Type] = {}


def payload(kind: type[Message], rng: Random) -> bytes:
    """A message of this kind, or something that is nearly one."""
    info = _STRUCTS.get(kind)
    if info is None:
        info = _STRUCTS[kind] = shape.type_info(kind)
    harm = rng.choice((0.0, 0.0, 0.02, 0.2))
    many = rng.choice((10, 100, 3000)) if rng.randrange(_MANY_EVERY) == 0 else 0
    return _Writer(rng, harm, many).text_of("", info).encode("utf-8", "surrogateescape")


class _Writer:
    """Writes JSON by type.

    Args:
        rng: decides.
        harm: probability that a value is something else.
        many: items of each list and dictionary, where it is not a few; what is inside such an item has a few.
    """

    def __init__(self, rng: Random, harm: float, many: int) -> None:
        self._rng = rng
        self._harm = harm
        self._many = many
        self._writers: dict[type[shape.Type], Callable[[str, object], str]] = {
            shape.StructType: self._struct,
            shape.StrType: self._string,
            shape.IntType: self._integer,
            shape.FloatType: self._float,
            shape.DateTimeType: self._moment,
            shape.BytesType: self._bytes,
            shape.LiteralType: lambda _, info: json.dumps(rng.choice(info.values)),  # type: ignore[attr-defined]
            shape.UnionType: lambda name, info: self.text_of(name, rng.choice(info.types)),  # type: ignore[attr-defined]
            shape.BoolType: lambda *_: rng.choice(("true", "false")),
            shape.NoneType: lambda *_: "null",
            shape.AnyType: lambda *_: rng.choice(_ANY_VALUES),
            shape.DictType: self._dict,
            shape.TupleType: lambda name, info: self._array(name, info.item_types),  # type: ignore[attr-defined]
            shape.VarTupleType: self._list,
        }

    def text_of(self, name: str, info: shape.Type) -> str:
        if self._harm and self._rng.random() < self._harm:
            return self._rng.choice(HOSTILE_VALUES)
        return self._writers[type(info)](name, info)

    def _struct(self, _name: str, info: object) -> str:
        assert isinstance(info, shape.StructType)
        rng, parts = self._rng, []
        for field in info.fields:
            if not field.required and rng.random() < 0.2:
                continue
            parts.append(f'"{field.encode_name}":{self.text_of(field.name, field.type)}')
        if self._harm and parts and rng.random() < 0.3:
            rng.choice((rng.shuffle, _double, _lose, _add_strange))(parts)
        return "{" + rng.choice((",", ",", ",", " ,\n")).join(parts) + "}"

    def _array(self, name: str, items: Sequence[shape.Type]) -> str:
        return "[" + ",".join(self.text_of(name, item) for item in items) + "]"

    def _list(self, name: str, info: object) -> str:
        assert isinstance(info, shape.VarTupleType)
        with self._many_here() as many:
            return self._array(name, [info.item_type] * (many or self._rng.choice((0, 1, 1, 2, 5))))

    def _dict(self, name: str, info: object) -> str:
        assert isinstance(info, shape.DictType)
        keys = self._rng.choices(("a", "b", "b", "\\u0000", "x" * 300), k=self._rng.randrange(4))
        with self._many_here() as many:
            keys += [f"k{number}" for number in range(many)]
            return "{" + ",".join(f'"{key}":{self.text_of(name, info.value_type)}' for key in keys) + "}"

    @contextlib.contextmanager
    def _many_here(self) -> Iterator[int]:
        many, self._many = self._many, 0
        yield many
        self._many = many

    def _string(self, name: str, info: object) -> str:
        assert isinstance(info, shape.StrType)
        if info.pattern is not None:
            return f'"{self._rng.getrandbits(256):064x}"'
        if name in ("id", "event_id", "motion_id"):
            return json.dumps(identity(self._rng).decode())
        return json.dumps(self._rng.choice(("yard", "yard", "yard", "node-1.edge", "", "\u00e4\U0001f600", "a\x00b")))

    def _integer(self, _name: str, info: object) -> str:
        assert isinstance(info, shape.IntType)
        least, most = info.ge if info.ge is not None else -(2**63), info.le if info.le is not None else 2**63 - 1
        return str(self._rng.choice((least, most, 1, self._rng.randint(int(least), int(most)), least - 1, most + 1)))

    def _float(self, _name: str, info: object) -> str:
        assert isinstance(info, shape.FloatType)
        return self._rng.choice(("0", "1", "0.5", "1e-9", repr(self._rng.random())))

    def _moment(self, _name: str, _info: object) -> str:
        rng = self._rng
        year, month, day = rng.choice((1970, 1999, 2026, 9998)), rng.randint(1, 12), rng.randint(1, 28)
        fraction = rng.choice(("", "", ".5", ".123456", ".999999999"))
        offset = rng.choice(("Z", "Z", "+02:00", "-23:59", "z"))
        return f'"{year:04}-{month:02}-{day:02}T12:30:59{fraction}{offset}"'

    def _bytes(self, _name: str, _info: object) -> str:
        return '"' + base64.b64encode(self._rng.randbytes(self._rng.choice((0, 1, 30, 300)))).decode() + '"'


def _double(parts: list[str]) -> None:
    parts.append(parts[len(parts) // 2])


def _lose(parts: list[str]) -> None:
    del parts[len(parts) // 2]


def _add_strange(parts: list[str]) -> None:
    parts.insert(0, '"strange":[{"v":9},' + "[" * 50 + "]" * 50 + "]")


def frame(rng: Random) -> bytes:
    """A JPEG with metadata as a node sends it, or with segments that are many, empty, cut, huge or lie."""
    comment = payload(FrameMeta, rng)
    if rng.random() < 0.5:
        return b"".join((_JPEG[:2], _segment(0xFE, comment, rng, lies=0.05), _JPEG[2:]))
    parts = [_JPEG[:2]]
    for _ in range(rng.choice((0, 1, 2, 5, 62, 63, 64, 70))):
        body = rng.choice((b"", b"ab", comment, rng.randbytes(20), bytes(65_533)))
        parts.append(_segment(rng.choice((0xE0, 0xE1, 0xFE, 0xDB, 0x00, 0xDA, 0xD8, 0x01, 0xFF)), body, rng, lies=0.02))
    parts.append(_segment(0xFE, comment, rng, lies=0.05))
    parts.append(rng.choice((_JPEG[2:], _JPEG[2:], _JPEG[2:-2], b"\xff\xd9", b"", b"\xff\xd9" + bytes(80))))
    return b"".join(parts)


def _segment(marker: int, body: bytes, rng: Random, *, lies: float) -> bytes:
    body = body[:65_533]
    length = len(body) + 2
    if rng.random() < lies:
        length = rng.choice((0, 1, 2, length - 1, min(length + 1, 65_535), 65_535))
    return b"\xff" * rng.choice((1, 1, 1, 1, 2, 30)) + bytes((marker,)) + length.to_bytes(2, "big") + body


def topic(rng: Random, spec: TopicSpec | None = None) -> bytes:
    """A topic of the contract, or nearly one."""
    wanted = spec or rng.choice(CONTRACT)
    harm = rng.choice((0.0, 0.0, 0.1))
    names = {name: _level(name, rng, harm) for name in wanted.placeholders}
    text = wanted.topic_filter(_level("site", rng, harm), **names)
    return text.encode("utf-8", "surrogateescape")


def _level(placeholder: str, rng: Random, harm: float) -> str:
    bad = rng.random() < harm
    if placeholder == "role":
        return rng.choice(_BAD_ROLES if bad else _ROLES)
    if placeholder == "origin":
        return "node-1.edge" if not bad else f"{rng.choice(_BAD_NAMES)}.{rng.choice(_BAD_ROLES)}"
    if placeholder == "camera":
        return "yard" if not bad else rng.choice(_BAD_NAMES)
    return rng.choice(_BAD_NAMES if bad else _NAMES)


def identity(rng: Random) -> bytes:
    """An event id, or nearly one."""
    if rng.random() < 0.7:
        return f"node-1.edge:e1:{rng.choice((1, 7, rng.randint(1, 2**63 - 1)))}".encode()
    origin = rng.choice(("node-1.edge", "node-1", ".", "", "no/de.edge", "a.b.c", "x" * 300))
    epoch = rng.choice(("e1", "", "e" * 65, "\u00e9", "a:b", "-", "0"))
    seq = rng.choice(("0", "-1", "1.0", "1_0", "\u0661", "+1", " 1", "01", "1e3", str(2**63), "9" * 5000, "", "x"))
    return rng.choice((f"{origin}:{epoch}:{seq}", f"{origin}:{epoch}", f"{origin}:{epoch}:{seq}:1", ":" * 300)).encode()


def big_json(rng: Random, size_bytes: int) -> bytes:
    """One small thing again and again, up to a size: whatever costs more than its length shows here."""
    head, unit, tail = rng.choice(
        (
            ('{"v":1,"x":', "[", ""),
            ('{"v":1,"x":', '{"a":', ""),
            ('{"v":1,"x":[', "[],", "0]}"),
            ('{"v":1,"x":"', "\\u00e9", '"}'),
            ('{"v":1,"x":"', "\\", '"}'),
            ('{"v":1,"x":', "9", "}"),
            ('{"v":1,"x":0.', "9", "}"),
            ('{"v":1,"value":', "9", "}"),
            ('{"v":1,"value":1e', "9", "}"),
            ('{"v":1,"value":"', "a", '"}'),
            ('{"v":1,"state":"', "@:=%25", '"}'),
            ('{"v":1,"id":"', ":", '"}'),
            ("{", '"v":1,', '"v":1}'),
            ("{", '"x":1,', '"v":1}'),
            ('{"v":1,"arguments":{', '"a":"",', '"b":""}}'),
            ('{"v":1,"camera":"yard","at":"2026-01-01T00:00:00Z","ids":[', '"",', '""]}'),
            ('{"v":1,"motion":[', "[0,0,0,0],", "[0,0,0,0]]}"),
            ('{"v":1,"camera":"yard","source":"a","settings":{"a":[', "{},", "0]}}"),
            ('{"v":1,"camera":"yard","source":"a","settings":{"a":', "[", ""),
            ("", " ", ""),
            ("", '"', ""),
            ("vigil/v1/", "a/", ""),
            ("vigil/v1/home/camera/", "a", "/frame"),
            ("vigil/v1/home/camera/", "@:=", "/frame"),
            ("", "node:", "1"),
            ("n.edge:e1:", "9", ""),
            ("\udcff\udcd8", "\udcff", ""),
            ("\udcff\udcd8", "\udcff\udce0\x00\x02", ""),
            ("\udcff\udcd8", "\udcff\udcd9", ""),
        )
    )
    count = max(1, (size_bytes - len(head) - len(tail)) // len(unit))
    return (head + unit * count + tail).encode("utf-8", "surrogateescape")


def mutated(rng: Random, one: bytes, other: bytes) -> bytes:
    """`one` with some damage, part of which may be a part of `other`."""
    data = bytearray(one)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 8, 64, 4096)))
        rng.choice(_DAMAGES)(data, at, end, rng, other)
    return bytes(data[:2_000_000])


def _overwrite(data: bytearray, at: int, end: int, rng: Random, _other: bytes) -> None:
    if at < len(data):
        data[at] = rng.choice(_BYTES_OF_NOTE) if rng.random() < 0.7 else rng.randrange(256)


def _cut(data: bytearray, at: int, end: int, _rng: Random, _other: bytes) -> None:
    del data[at:end]


def _cut_off(data: bytearray, at: int, _end: int, _rng: Random, _other: bytes) -> None:
    del data[at:]


def _insert(data: bytearray, at: int, _end: int, rng: Random, _other: bytes) -> None:
    data[at:at] = rng.choice(_TOKENS)


def _replace(data: bytearray, at: int, end: int, rng: Random, _other: bytes) -> None:
    data[at:end] = rng.choice(_TOKENS)


def _repeat(data: bytearray, at: int, end: int, rng: Random, _other: bytes) -> None:
    data[at:at] = data[at : min(end, at + 64)] * rng.choice((1, 1, 3, 300))


def _splice(data: bytearray, at: int, end: int, rng: Random, other: bytes) -> None:
    start = rng.randrange(len(other) + 1)
    data[at:end] = other[start : start + rng.choice((4, 64, 4096))]


_DAMAGES = (_overwrite, _overwrite, _cut, _cut_off, _insert, _replace, _repeat, _splice)
