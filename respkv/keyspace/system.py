"""Records of the system's own in a shard's replicated state: kept, copied and merged as keys are, but no client's.

Their keys are longer than a client's may be, so no command can name them, and they lie in a bucket behind those of the
slots, which nothing counts, lists or digests. FLUSHALL leaves them. Each has a version, which grows with each change,
mostly by one; who changes one names the version that he knows, so that of two changes at once one is refused, and the
next.

| bytes | field   |                            |
| ----- | ------- | -------------------------- |
| 8     | version | u64, little endian, from 1 |
|       | content | the owner's business       |
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final, NamedTuple

from respkv.cluster.slots import OPEN, SLOTS, slot_of
from respkv.keyspace.values import KEY_BYTES_MAX

TYPE: Final = 254
BUCKETS: Final = SLOTS + 1
_VERSION_BYTES: Final = 8

USERS: Final = b"users"


class SystemRecord(NamedTuple):
    version: int
    content: bytes


NONE: Final = SystemRecord(0, b"")
"""What a record is that was never written."""


def system_key(name: bytes) -> bytes:
    return name.ljust(KEY_BYTES_MAX + 1, b"\0")


def bucket_of(key: bytes) -> int:
    """The bucket of a key of either kind: `slot_of`, written out as it is called for each key of a log that is
    opened."""
    if len(key) > KEY_BYTES_MAX:
        return SLOTS
    if OPEN in key:
        return slot_of(key)
    return crc_hqx(key, 0) & 16383


def pack(record: SystemRecord) -> bytes:
    return record.version.to_bytes(_VERSION_BYTES, "little") + record.content


def unpack(value: bytes) -> SystemRecord:
    return SystemRecord(int.from_bytes(value[:_VERSION_BYTES], "little"), value[_VERSION_BYTES:])
