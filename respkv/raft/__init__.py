"""Raft on PySyncObj, driven by our loop, with our own journal and transport. Start reading at `respkv.raft.group`."""
