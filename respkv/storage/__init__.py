"""The storage engine: a Bitcask. One directory holds the data of one shard replica, or of whoever wants a durable dict.

from respkv.storage import Bitcask

with Bitcask("data") as cask:
    cask.put(b"key", b"value")
    cask.flush()
    cask.get(b"key").value
"""

from respkv.finding import Finding
from respkv.storage.batch import Batch
from respkv.storage.bitcask import Bitcask
from respkv.storage.check import check, last_index
from respkv.storage.errors import Damaged, Failed, Locked, StorageError
from respkv.storage.record import Record, encode_puts
from respkv.storage.snapshot import Snapshot, SnapshotFile
from respkv.storage.syncing import SyncPoint

__all__ = [
    "Batch",
    "Bitcask",
    "Damaged",
    "Failed",
    "Finding",
    "Locked",
    "Record",
    "Snapshot",
    "SnapshotFile",
    "StorageError",
    "SyncPoint",
    "check",
    "encode_puts",
    "last_index",
]
