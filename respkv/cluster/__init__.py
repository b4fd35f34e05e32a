"""The cluster map: which slot a key has, which shard owns a slot, which nodes hold a shard, how nodes talk."""
