// keyv, a cache interface, with its Redis store. Argument: the port of a standalone view.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import KeyvRedis from "@keyv/redis";
import Keyv from "keyv";

const uri = `redis://127.0.0.1:${process.argv[2]}`;
const [pages, users] = ["pages", "users"].map(
  (namespace) => new Keyv({ store: new KeyvRedis(uri), namespace, throwOnErrors: true }),
);
await pages.set("home", { title: "Home", tags: [1, 2] });
await users.set("home", "a user");
await pages.set("brief", 1, 2000);
assert.deepEqual(await pages.get("home"), { title: "Home", tags: [1, 2] });
assert.equal(await pages.get("brief"), 1);
assert.equal(await pages.has("home"), true);
assert.deepEqual(await pages.getMany(["home", "none"]), [{ title: "Home", tags: [1, 2] }, undefined]);
const names = [];
for await (const [name] of pages.store.iterator("pages")) names.push(name);
assert.deepEqual(names.sort(), ["pages:brief", "pages:home"]);
const deadline = Date.now() + 20_000;
while ((await pages.get("brief")) !== undefined && Date.now() < deadline) await sleep(100);
assert.equal(await pages.get("brief"), undefined);
assert.equal(await pages.delete("home"), true);
assert.equal(await pages.delete("home"), false);
await pages.setMany([{ key: "one", value: 1 }, { key: "two", value: 2 }]);
await pages.clear();
assert.equal(await pages.get("one"), undefined);
assert.equal(await users.get("home"), "a user");
await Promise.all([pages.disconnect(), users.disconnect()]);
console.log("done");
