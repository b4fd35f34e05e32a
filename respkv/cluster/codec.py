"""MessagePack as nodes speak it: plain values, with extension types for the replies that have no plain counterpart.

| extension | reply                    | content                              |
| --------- | ------------------------ | ------------------------------------ |
| 1         | `Simple`                 | the text                             |
| 2         | `RespError`              | the text                             |
| 3         | `Verbatim`               | three letters of format, then text   |
| 4         | `NullArray`              | empty                                |
| 5         | `LongBulk`               | its length (u64); the parts travel beside the message |

Decoding never makes anything but these and MessagePack's own types; a set arrives as a list.
"""

from __future__ import annotations

from typing import Any

import msgspec

from respkv.reply import NULL_ARRAY, LongBulk, NullArray, RespError, Simple, Verbatim

_Ext = msgspec.msgpack.Ext


def _to_wire(value: Any) -> Any:
    if isinstance(value, Simple):
        return _Ext(1, value.text)
    if isinstance(value, RespError):
        return _Ext(2, value.text.encode("utf-8", "surrogateescape"))
    if isinstance(value, Verbatim):
        return _Ext(3, value.format + value.text)
    if isinstance(value, NullArray):
        return _Ext(4, b"")
    if isinstance(value, LongBulk):
        return _Ext(5, value.value_bytes.to_bytes(8, "little"))
    raise TypeError(f"{type(value).__name__} does not travel between nodes")


def _from_wire(code: int, data: memoryview) -> Any:
    content = bytes(data)
    if code == 1:
        return Simple(content)
    if code == 2:
        return RespError(content.decode("utf-8", "surrogateescape"))
    if code == 3:
        return Verbatim(content[3:], content[:3])
    if code == 4:
        return NULL_ARRAY
    if code == 5:
        return LongBulk(int.from_bytes(content, "little"), [])
    raise ValueError(f"unknown extension {code}")


encode = msgspec.msgpack.Encoder(enc_hook=_to_wire).encode
decode = msgspec.msgpack.Decoder(ext_hook=_from_wire).decode
