"""The typed view of one shard's data: what Redis's commands work on, over the Bitcask log."""
