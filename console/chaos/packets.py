"""Where MQTT packets begin and end in a stream of bytes, as far as repeating one needs it."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["PacketSplitter"]

_PUBLISH_QOS_1 = 0x32
_DUP_AND_RETAIN = 0x09
_DUP = 0x08


class PacketSplitter:
    """Follows one direction of one connection.

    Source: MQTT 3.1.1 and 5, section 2: type and flags, then the remaining length in up to four bytes of seven bits.
    """

    def __init__(self) -> None:
        self._rest = b""
        """The first bytes of a fixed header whose end has not come yet."""
        self._body_bytes = 0
        """Still to come of the packet that has begun."""

    def feed(self, chunk: bytes, *, repeat: bool) -> bytes:
        """Take the bytes that come next, and return those to send on.

        Args:
            chunk: any part of the stream.
            repeat: whether each PUBLISH of QoS 1 is to come twice, the second marked as a duplicate; those that do not
                lie in `chunk` as a whole come once.
        """
        out = bytearray()
        done = 0
        for begin, end in self._packets(chunk):
            out += chunk[done:end]
            done = end
            if repeat and chunk[begin] & ~_DUP_AND_RETAIN == _PUBLISH_QOS_1:
                out.append(chunk[begin] | _DUP)
                out += chunk[begin + 1 : end]
        return bytes(out + chunk[done:])

    def _packets(self, chunk: bytes) -> Iterator[tuple[int, int]]:
        """Begin and end of every packet that lies in `chunk` as a whole."""
        position = min(self._body_bytes, len(chunk))
        self._body_bytes -= position
        while position < len(chunk):
            held = len(self._rest)
            header = _read_header(self._rest + chunk[position : position + 5 - held])
            if header is None:
                self._rest += chunk[position:]
                return
            header_bytes, body_bytes = header
            end = position + header_bytes - held + body_bytes
            if not held and end <= len(chunk):
                yield position, end
            self._rest = b""
            self._body_bytes = max(0, end - len(chunk))
            position = end


def _read_header(begin: bytes) -> tuple[int, int] | None:
    """Bytes of the fixed header and of what follows it; None while it is not complete."""
    length = 0
    for place, byte in enumerate(begin[1:5]):
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return 2 + place, length
    return None
