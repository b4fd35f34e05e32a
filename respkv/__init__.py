"""A Redis-protocol server whose state you can trust."""

__version__ = "0.1.0"
