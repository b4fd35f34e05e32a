// connect-redis, the session store of Express. Argument: the port of a standalone view.
import assert from "node:assert/strict";
import { promisify } from "node:util";
import { RedisStore } from "connect-redis";
import { createClient } from "redis";

const client = createClient({ socket: { port: Number(process.argv[2]) } });
await client.connect();
await client.flushAll();
const store = new RedisStore({ client, prefix: "sess:", ttl: 1000 });
const [get, set, touch, destroy, all, ids, length, clear] =
  ["get", "set", "touch", "destroy", "all", "ids", "length", "clear"].map((name) => promisify(store[name]).bind(store));
const session = (user) => ({ user, cookie: { expires: new Date(Date.now() + 60_000).toISOString() } });
for (let n = 0; n < 150; n++) await set(`s${n}`, session(n));
assert.equal((await get("s7")).user, 7);
assert.equal(await get("none"), null);
assert.ok((await client.ttl("sess:s7")) <= 60);
await client.persist("sess:s7");
await touch("s7", session(7));
assert.ok((await client.ttl("sess:s7")) > 50);
assert.equal(await length(), 150);
assert.equal((await ids()).length, 150);
assert.equal((await all()).filter((each) => each.user < 10).length, 10);
await destroy("s7");
assert.equal(await length(), 149);
await client.set("other", "stays");
await clear();
assert.equal(await length(), 0);
assert.equal(await client.get("other"), "stays");
await client.close();
console.log("done");
