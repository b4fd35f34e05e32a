"""Frames between nodes: messages to bytes and back, without I/O.

| bytes | what |
| --- | --- |
| 4 | length of the payload, little endian; its top three bits are FRAGMENT, LAST, RAW |
| 4 | CRC-32 of the payload |
| ... | a MessagePack array of messages (`respkv.cluster.codec`) |

A message with `LONG_BYTES` or more travels as fragments of `FRAGMENT_BYTES`, each a frame with FRAGMENT set, the last
with LAST. One whose last field is `Parts` carries these raw, in fragments of their own with RAW, behind those of a
MessagePack array of its other fields; they arrive as a list of bytes, cut further, and are copied once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from respkv.checksum import crc32
from respkv.cluster.codec import decode, encode

HEADER_BYTES = 8
FRAGMENT = 1 << 31
LAST = 1 << 30
RAW = 1 << 29
LENGTH = RAW - 1
FRAGMENT_BYTES = 256 << 10
LONG_BYTES = 8 << 20
FRAME_BYTES_MAX = 64 << 20
FIRST_FRAME_BYTES_MAX = 4096
MESSAGE_BYTES_MAX = 2 << 30

Message = Any


class BadFrame(Exception):
    """What has come is no frame that may come; the text says why."""


class Parts(list[bytes]):
    """A long last field of a message. The receiver gets the same bytes in smaller parts; none spans two of these."""


def header(payload: bytes | memoryview, flags: int = 0) -> bytes:
    return (len(payload) | flags).to_bytes(4, "little") + crc32(payload).to_bytes(4, "little")


def shard_of(message: Message) -> int | None:
    return message[1] if len(message) > 1 else None


def is_long(message: Message) -> bool:
    """Whether a message carries so many bytes that others should not wait behind it. Looks at what can be large
    only."""
    content = message[-1]
    if type(content) is Parts:
        return True
    if type(content) is bytes:
        return len(content) >= LONG_BYTES
    if type(content) is not list:
        return False
    size = 0
    for item in content:
        part = item[0] if type(item) is tuple else item
        if type(part) is bytes:
            size += len(part)
    return size >= LONG_BYTES


def fragments(message: Message) -> Iterator[tuple[memoryview, int]]:
    """The fragments of one message and their flags."""
    raw = message[-1] if isinstance(message[-1], Parts) else []
    parts: list[tuple[bytes, int]] = [(encode([message[:-1] if raw else message]), FRAGMENT)]
    parts += [(part, FRAGMENT | RAW) for part in raw if part]
    for position, (part, flags) in enumerate(parts):
        view = memoryview(part)
        for start in range(0, len(view), FRAGMENT_BYTES):
            last = position == len(parts) - 1 and start + FRAGMENT_BYTES >= len(view)
            yield view[start : start + FRAGMENT_BYTES], flags | (LAST if last else 0)


class FrameReader:
    """Puts messages together from bytes as they come. `trusted`: false until the other end has named itself, which it
    must do in a short frame.

    `feed` it, then call `next` until that returns None.
    """

    def __init__(self) -> None:
        self.trusted = False
        self.frame_bytes = 0  # of what `next` returned last
        self._parts: list[bytes] = []
        self._at = 0  # in the first part
        self._have = 0
        self._need = HEADER_BYTES
        self._fragments: list[bytes] = []
        self._raw: list[bytes] = []
        self._fragments_bytes = 0

    def feed(self, data: bytes) -> None:
        self._parts.append(data)
        self._have += len(data)

    def next(self) -> list[Message] | None:
        """The messages of the next frame, or the next long one; None if more bytes are needed. Raises BadFrame."""
        while self._have >= self._need:
            data, at = self._joined(), self._at
            flags = int.from_bytes(data[at : at + 4], "little")
            length = flags & LENGTH
            self._check(flags, length)
            end = at + HEADER_BYTES + length
            if end - at > self._have:
                self._need = end - at
                break
            payload = memoryview(data)[at + HEADER_BYTES : end]
            if crc32(payload) != int.from_bytes(data[at + 4 : at + 8], "little"):
                raise BadFrame("a frame does not check")
            self._at, self._have, self._need = end, self._have - (end - at), HEADER_BYTES
            if not flags & FRAGMENT:
                self.frame_bytes = length
                return _messages(payload, [])
            (self._raw if flags & RAW else self._fragments).append(bytes(payload))
            self._fragments_bytes += length
            if flags & LAST:
                return self._whole()
        if self._at:
            self._parts, self._at = [self._parts[0][self._at :]] if self._have else [], 0
        return None

    def _joined(self) -> bytes:
        if len(self._parts) > 1:
            self._parts[0] = self._parts[0][self._at :]
            self._parts, self._at = [b"".join(self._parts)], 0
        return self._parts[0]

    def _check(self, flags: int, length: int) -> None:
        fragment = flags & FRAGMENT
        if not self.trusted and (length > FIRST_FRAME_BYTES_MAX or fragment):
            raise BadFrame("the first message is too long")
        if length > FRAME_BYTES_MAX or (fragment and self._fragments_bytes + length > MESSAGE_BYTES_MAX):
            raise BadFrame("a message is too long")
        if flags & (LAST | RAW) and not fragment:
            raise BadFrame("a frame has flags that do not belong together")

    def _whole(self) -> list[Message]:
        payload = memoryview(b"".join(self._fragments))
        raw, self.frame_bytes = self._raw, self._fragments_bytes
        self._fragments, self._raw, self._fragments_bytes = [], [], 0
        return _messages(payload, raw)


def _messages(payload: memoryview, raw: list[bytes]) -> list[Message]:
    try:
        messages = decode(payload)
        if raw:
            messages[0].append(raw)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise BadFrame(f"a frame is no MessagePack: {error}") from None
    if type(messages) is not list:
        raise BadFrame("a frame is no list of messages")
    return messages
