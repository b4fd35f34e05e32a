"""The benchmark of respkv against redis-server, on one machine: `python -m tests.bench`."""
