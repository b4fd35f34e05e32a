"""How two nodes prove to each other that they know the cluster's secret, before either parses what the other says.

Only bytes of fixed length are exchanged until both proofs hold (HMAC-SHA-256, RFC 2104, over both nonces):

| step | from     | bytes | content                                             |
| ---- | -------- | ----- | --------------------------------------------------- |
| 1    | dialer   | 36    | `RKV1`, nonce of the dialer                         |
| 2    | acceptor | 64    | nonce of the acceptor, proof of the acceptor        |
| 3    | dialer   | 32    | proof of the dialer                                 |

Sans-IO: bytes in, bytes out. It authenticates the ends of the connection, not the bytes that follow (their CRC only
finds accidents): on a network that others can write to, run the peer port inside a tunnel.
"""

from __future__ import annotations

import hashlib
import hmac
import os

MAGIC = b"RKV1"
NONCE_BYTES = 32
PROOF_BYTES = 32


class HandshakeError(Exception):
    """The other end does not speak our protocol or does not know the secret."""


class Handshake:
    """One side of the exchange. Feed it what comes; send what `take_output` gives; it is over when `done`."""

    def __init__(self, secret: bytes, *, dialer: bool, nonce: bytes | None = None) -> None:
        self._secret = secret
        self._dialer = dialer
        self._nonce = nonce or os.urandom(NONCE_BYTES)
        self._theirs = b""
        self._buffer = b""
        self._output = MAGIC + self._nonce if dialer else b""
        self.done = False

    @property
    def rest(self) -> bytes:
        """Once `done`: the bytes received beyond the handshake."""
        return self._buffer

    def take_output(self) -> bytes:
        output, self._output = self._output, b""
        return output

    def feed(self, data: bytes) -> None:
        """Raises HandshakeError; the connection is then to be closed without an answer."""
        self._buffer += data
        if self._dialer:
            self._feed_dialer()
        else:
            self._feed_acceptor()

    def _feed_dialer(self) -> None:
        if self.done or len(self._buffer) < NONCE_BYTES + PROOF_BYTES:
            return
        self._theirs = self._take(NONCE_BYTES)
        self._verify(b"acceptor")
        self._output += self._proof(b"dialer")
        self.done = True

    def _feed_acceptor(self) -> None:
        head = self._buffer[: len(MAGIC)]
        if not self._theirs and head != MAGIC[: len(head)]:
            raise HandshakeError("not a respkv node")
        if not self._theirs and len(self._buffer) >= len(MAGIC) + NONCE_BYTES:
            self._take(len(MAGIC))
            self._theirs = self._take(NONCE_BYTES)
            self._output += self._nonce + self._proof(b"acceptor")
        if self._theirs and not self.done and len(self._buffer) >= PROOF_BYTES:
            self._verify(b"dialer")
            self.done = True

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _verify(self, role: bytes) -> None:
        if not hmac.compare_digest(self._take(PROOF_BYTES), self._proof(role)):
            raise HandshakeError("wrong cluster secret")

    def _proof(self, role: bytes) -> bytes:
        nonces = self._nonce + self._theirs if self._dialer else self._theirs + self._nonce
        return hmac.new(self._secret, role + nonces, hashlib.sha256).digest()
