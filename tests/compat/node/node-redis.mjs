// node-redis doing its ordinary job. Arguments: the port of a standalone view, then the ports of all cluster views.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient, createCluster } from "redis";

const [port, ...clusterPorts] = process.argv.slice(2).map(Number);

async function standalone(RESP) {
  const client = createClient({ RESP, socket: { port } });
  client.on("error", (error) => assert.fail(error));
  await client.connect();
  await client.flushAll();
  assert.equal(await client.set("key", "value", { expiration: { type: "EX", value: 100 } }), "OK");
  assert.equal(await client.get("key"), "value");
  assert.equal(await client.set("key", "x", { condition: "NX" }), null);
  assert.equal(await client.getEx("key", { type: "PERSIST" }), "value");
  assert.equal(await client.ttl("key"), -1);
  await client.mSet({ a: "1", b: "2" });
  assert.deepEqual(await client.mGet(["a", "b", "none"]), ["1", "2", null]);
  await assert.rejects(client.incr("key"), /not an integer/);
  const counts = await Promise.all(Array.from({ length: 100 }, () => client.incr("count")));
  assert.equal(counts.at(-1), 100);
  assert.equal(await client.setBit("bits", 7, 1), 0);
  assert.equal(await client.bitCount("bits"), 1);
  await Promise.all(Array.from({ length: 200 }, (_, n) => client.set(`scan:${n}`, String(n))));
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: "scan:*", COUNT: 30 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 200);
  assert.deepEqual(await client.multi().set("{t}a", "1").incr("{t}a").get("{t}a").exec(), ["OK", 2, "2"]);
  await client.watch("{t}a");
  const other = await client.duplicate().connect();
  await other.set("{t}a", "changed");
  await other.close();
  await assert.rejects(client.multi().get("{t}a").exec(), /watched keys has been changed/);
  const subscriber = await client.duplicate().connect();
  const heard = new Promise((resolve) => subscriber.subscribe("news", (message) => resolve(message)).then(
    () => client.publish("news", "hello"),
  ));
  assert.equal(await heard, "hello");
  await subscriber.close();
  assert.equal(await client.copy("a", "a", { REPLACE: true }).catch((error) => error.message.slice(0, 3)), "ERR");
  assert.equal(await client.clientId() > 0, true);
  await client.close();
}

async function caching() {
  const cached = createClient({ RESP: 3, socket: { port }, clientSideCache: { ttl: 0, maxEntries: 100 } });
  const other = createClient({ socket: { port } });
  await Promise.all([cached.connect(), other.connect()]);
  await other.set("cached", "old");
  assert.equal(await cached.get("cached"), "old");
  assert.equal(await cached.get("cached"), "old");
  await other.set("cached", "new");
  const deadline = Date.now() + 10_000;
  while ((await cached.get("cached")) !== "new") {
    assert.ok(Date.now() < deadline, "it was never told");
    await sleep(20);
  }
  await Promise.all([cached.close(), other.close()]);
}

async function cluster() {
  const client = createCluster({ rootNodes: clusterPorts.map((port) => ({ url: `redis://127.0.0.1:${port}` })) });
  client.on("error", (error) => assert.fail(error));
  await client.connect();
  assert.equal(client.masters.length, clusterPorts.length);
  const names = Array.from({ length: 300 }, (_, n) => `key:${n}`);
  await Promise.all(names.map((name, n) => client.set(name, String(n))));
  assert.deepEqual(await Promise.all(names.map((name) => client.get(name))), names.map((_, n) => String(n)));
  assert.deepEqual(await client.mGet(["{none}a", "{none}b"]), [null, null]);
  assert.deepEqual(await client.multi().set("{tag}a", "1").incr("{tag}a").exec(), ["OK", 2]);
  await client.close();
}

await standalone(2);
await standalone(3);
await caching();
await cluster();
console.log("done");
