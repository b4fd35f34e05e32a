"""What makes a Raft group and a keyspace into a shard: batches, the proposer that gathers them, the machine that
applies."""
