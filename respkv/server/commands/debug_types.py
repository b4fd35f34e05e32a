"""DEBUG PROTOCOL: a reply of each type that the protocol has, for tests of clients; as Redis answers it."""

from __future__ import annotations

from typing import Final

from respkv import errors
from respkv.reply import Encoded, Reply, Verbatim
from respkv.resp.encoder import encode
from respkv.server.dispatch import Call

_BIG: Final = b"1234567999999999999999999999999999999"
_AFTER_ATTRIBUTE: Final = b"Some real reply following the attribute"
_AFTER_PUSH: Final = b"Some real reply following the push reply"
_ATTRIBUTE: Final = b"|1\r\n" + encode(b"key-popularity", 3) + encode([b"key:123", 90], 3)
_PUSH: Final = b">2\r\n" + encode(b"server-cpu-usage", 3) + encode(42, 3)

_TYPES: Final[dict[bytes, Reply]] = {
    b"string": b"Hello World",
    b"integer": 12345,
    b"double": 3.141,
    b"null": None,
    b"array": [0, 1, 2],
    b"set": {0, 1, 2},
    b"map": {0: False, 1: True, 2: False},
    b"verbatim": Verbatim(b"This is a verbatim\nstring"),
    b"true": True,
    b"false": False,
}

# What RESP3 has and no command answers with, by protocol.
_ENCODED: Final = {
    b"bignum": {2: encode(_BIG, 2), 3: b"(%b\r\n" % _BIG},
    b"attrib": {2: encode(_AFTER_ATTRIBUTE, 2), 3: _ATTRIBUTE + encode(_AFTER_ATTRIBUTE, 3)},
    b"push": {3: _PUSH + encode(_AFTER_PUSH, 3)},
}


_NAMES: Final = "string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false"


def protocol(call: Call) -> Reply:
    name, version = call.args[2].lower(), call.session.protocol
    if name == b"push" and version == 2:
        raise errors.generic("RESP2 is not supported by this command")
    if name in _ENCODED:
        return Encoded(_ENCODED[name][version])
    if name not in _TYPES:
        raise errors.generic(f"Wrong protocol type name. Please use one of the following: {_NAMES}")
    return _TYPES[name]
