"""Redis 7.0's commands that respkv does not have (yet), with their ACL categories.

Rules written for Redis name them (`+sadd`, `-@stream`), and a category must mean the same with them or without. Those
that the command table has by now are skipped. One group a line: the categories, then the commands.
"""

from typing import Final

FOREIGN: Final = """
admin connection dangerous slow: client|pause client|unblock client|unpause
admin dangerous fast: lastsave
admin dangerous hyperloglog slow: pfselftest
admin dangerous hyperloglog slow write: pfdebug
admin dangerous slow: bgrewriteaof bgsave cluster|count-failure-reports cluster|slaves failover latency|doctor
  latency|graph latency|histogram latency|history latency|latest latency|reset module|list module|load module|loadex
  module|unload monitor psync replconf replicaof save slaveof slowlog|get slowlog|len slowlog|reset sync
blocking fast sortedset write: bzpopmax bzpopmin
blocking list slow write: blmove blmpop blpop brpop brpoplpush
blocking read slow stream: xread
blocking slow sortedset write: bzmpop
blocking slow stream write: xreadgroup
connection slow: client|caching client|getredir client|reply client|tracking client|trackinginfo
dangerous fast keyspace write: swapdb
dangerous keyspace slow write: migrate
fast hash read: hexists hget hlen hmget hstrlen
fast hash write: hdel hincrby hincrbyfloat hmset hset hsetnx
fast hyperloglog write: pfadd
fast list read: llen
fast list write: lpop lpush lpushx rpop rpush rpushx
fast pubsub: publish spublish
fast read: lolwut
fast read set: scard sismember smismember
fast read sortedset: zcard zcount zlexcount zmscore zrank zrevrank zscore
fast read stream: xlen
fast set write: sadd smove spop srem
fast sortedset write: zadd zincrby zpopmax zpopmin zrem
fast stream write: xack xadd xautoclaim xclaim xdel xsetid
fast transaction: discard multi unwatch watch
geo read slow: geodist geohash geopos georadius_ro georadiusbymember_ro geosearch
geo slow write: geoadd georadius georadiusbymember geosearchstore
hash read slow: hgetall hkeys hrandfield hscan hvals
hyperloglog read slow: pfcount
hyperloglog slow write: pfmerge
list read slow: lindex lpos lrange
list slow write: linsert lmove lmpop lrem lset ltrim rpoplpush
pubsub slow: psubscribe pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub
  punsubscribe ssubscribe subscribe sunsubscribe unsubscribe
read set slow: sdiff sinter sintercard smembers srandmember sscan sunion
read slow sortedset: zdiff zinter zintercard zrandmember zrange zrangebylex zrangebyscore zrevrange zrevrangebylex
  zrevrangebyscore zscan zunion
read slow stream: xinfo|consumers xinfo|groups xinfo|stream xpending xrange xrevrange
scripting slow: eval eval_ro evalsha evalsha_ro fcall fcall_ro function|dump function|help function|kill function|list
  function|stats script|debug script|exists script|flush script|help script|kill script|load
scripting slow write: function|delete function|flush function|load function|restore
set slow write: sdiffstore sinterstore sunionstore
slow: function latency latency|help module module|help pubsub pubsub|help script slowlog slowlog|help xgroup xinfo
slow sortedset write: zdiffstore zinterstore zmpop zrangestore zremrangebylex zremrangebyrank zremrangebyscore
  zunionstore
slow stream: xgroup|help xinfo|help
slow stream write: xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|setid xtrim
slow transaction: exec
"""
