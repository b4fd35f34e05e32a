"""RESP, the Redis serialization protocol: bytes to commands (`parser`), replies to bytes (`encoder`). No I/O here."""
