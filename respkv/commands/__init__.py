"""Redis's commands over the data of one shard, and the table that describes every command of the server.

Importing the package fills the table with the data commands; the server's modules add their own.
"""

from respkv.commands import bitfield, bits, introspect, keys, ranges, sorting, strings, transfer

__all__ = ["bitfield", "bits", "introspect", "keys", "ranges", "sorting", "strings", "transfer"]
