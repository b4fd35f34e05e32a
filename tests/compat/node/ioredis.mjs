// ioredis doing its ordinary job. Arguments: the port of a standalone view, then the ports of all cluster views.
import assert from "node:assert/strict";
import { once } from "node:events";
import Redis from "ioredis";

const [port, ...clusterPorts] = process.argv.slice(2).map(Number);

async function standalone() {
  const redis = new Redis(port, { maxRetriesPerRequest: 1 });
  await redis.flushall();
  assert.equal(await redis.set("key", "value", "EX", 100), "OK");
  assert.equal(await redis.get("key"), "value");
  assert.equal(await redis.set("key", "other", "NX"), null);
  assert.ok((await redis.ttl("key")) > 90);
  assert.deepEqual(await redis.mset({ a: 1, b: 2 }), "OK");
  assert.deepEqual(await redis.mget("a", "b", "none"), ["1", "2", null]);
  assert.deepEqual(await redis.getBuffer("a"), Buffer.from("1"));
  assert.equal(await redis.incrby("count", 5), 5);
  await assert.rejects(redis.incr("key"), /ERR value is not an integer or out of range/);
  const replies = await redis.pipeline().set("p", "1").incr("p").get("p").incr("key").exec();
  assert.deepEqual(replies.slice(0, 3), [[null, "OK"], [null, 2], [null, "2"]]);
  assert.match(replies[3][0].message, /not an integer/);
  const transaction = redis.multi().set("{t}a", "1").incr("{t}a").get("{t}a").incr("{t}none");
  assert.deepEqual(await transaction.exec(), [[null, "OK"], [null, 2], [null, "2"], [null, 1]]);
  await redis.watch("{t}a");
  const other = redis.duplicate();
  await other.set("{t}a", "changed");
  other.disconnect();
  assert.equal(await redis.multi().get("{t}a").exec(), null);
  const subscriber = new Redis(port);
  const heard = [];
  subscriber.on("message", (channel, message) => heard.push([channel, message]));
  subscriber.on("pmessage", (pattern, channel, message) => heard.push([pattern, channel, message]));
  await subscriber.subscribe("news");
  await subscriber.psubscribe("n*");
  assert.equal(await redis.publish("news", "hello"), 2);
  while (heard.length < 2) await once(subscriber, heard.length ? "pmessage" : "message");
  assert.deepEqual(heard, [["news", "hello"], ["n*", "news", "hello"]]);
  await subscriber.quit();
  for (let n = 0; n < 200; n++) redis.set(`scan:${n}`, n);
  const found = new Set();
  for await (const keys of redis.scanStream({ match: "scan:*", count: 30 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 200);
  assert.match(await redis.info(), /redis_version:7/);
  await redis.quit();

  const automatic = new Redis(port, { enableAutoPipelining: true, keyPrefix: "app:" });
  const values = await Promise.all(Array.from({ length: 100 }, (_, n) => automatic.incr("shared")));
  assert.equal(Math.max(...values), 100);
  assert.equal(await automatic.get("shared"), "100");
  automatic.disconnect();
}

async function cluster() {
  const redis = new Redis.Cluster(clusterPorts.map((port) => ({ host: "127.0.0.1", port })));
  await once(redis, "ready");
  await Promise.all(redis.nodes("master").map((node) => node.flushall()));
  const names = Array.from({ length: 300 }, (_, n) => `key:${n}`);
  await Promise.all(names.map((name, n) => redis.set(name, n)));
  assert.deepEqual(await Promise.all(names.map((name) => redis.get(name))), names.map((_, n) => String(n)));
  assert.equal(redis.nodes("master").length, clusterPorts.length);
  const sizes = await Promise.all(redis.nodes("master").map((node) => node.dbsize()));
  assert.equal(sizes.reduce((sum, size) => sum + size), 300);
  assert.deepEqual(await redis.mset("{tag}a", 1, "{tag}b", 2), "OK");
  assert.deepEqual(await redis.pipeline().get("{tag}a").incr("{tag}b").exec(), [[null, "1"], [null, 3]]);
  await assert.rejects(redis.mget("key:1", "key:2"), /CROSSSLOT/);
  await redis.quit();
}

await standalone();
await cluster();
console.log("done");
