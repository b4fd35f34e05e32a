"""What replicas of one shard say to each other: plain tuples, kind and shard first, that any encoder can carry.

| kind          | fields after (kind, shard)                                             |
| ------------- | ---------------------------------------------------------------------- |
| `APPEND`      | term, commit, prev_index, prev_term, sent, entries (command, index, term) |
| `ACK`         | term, next_index, success, reset, sent (echoed)                        |
| `VOTE`        | term, last_index, last_term, forced                                    |
| `VOTED`       | term                                                                   |
| `PREVOTE`     | term, last_index, last_term                                            |
| `PREVOTED`    | term, granted                                                          |
| `TIMEOUT_NOW` | term                                                                   |
| `SNAPSHOT_*`  | see `respkv.raft.snapshot`                                             |

`sent` is the sender's own clock in seconds and means nothing to the receiver, who only echoes it.
"""

from typing import Any

APPEND = 0
ACK = 1
VOTE = 2
VOTED = 3
PREVOTE = 4
PREVOTED = 5
TIMEOUT_NOW = 6
SNAPSHOT_BEGIN = 7
SNAPSHOT_CHUNK = 8
SNAPSHOT_END = 9
SNAPSHOT_ACK = 10

Message = tuple[Any, ...]
