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
| `ASIDE`       | none: the sender is about to stop, and will not lead                   |
| `SNAPSHOT_*`  | see `respkv.raft.snapshot`                                             |
| `INTRODUCE`   | question, life, standing; see `respkv.raft.membership`                 |
| `INTRODUCED`  | question (echoed), known_otherwise, term, last index of a leader or -1 |

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
ASIDE = 7
SNAPSHOT_BEGIN = 8
SNAPSHOT_CHUNK = 9
SNAPSHOT_END = 10
SNAPSHOT_ACK = 11
INTRODUCE = 12
INTRODUCED = 13

REPLICA_KIND_MAX = INTRODUCED  # up to here messages are between replicas of a shard

Message = tuple[Any, ...]
