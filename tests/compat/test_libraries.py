"""Libraries that keep their data in Redis, each doing its ordinary job on respkv: caches, sessions, locks, limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiocache import RedisCache
from aiocache.serializers import JsonSerializer
from cachelib import RedisCache as CachelibCache
from django.conf import settings as django_settings
from django.contrib.sessions.backends.cache import SessionStore
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache as DjangoCache
from redis.exceptions import ResponseError

from tests.cluster import NodeProcess, TestCluster, wait_until


@pytest.fixture
def node(cluster: TestCluster) -> NodeProcess:
    """A node that leads only a third of the keys."""
    return cluster["n2"]


# --- Django ---


@pytest.fixture
def django_cache(node: NodeProcess) -> Iterator[DjangoCache]:
    url = f"redis://127.0.0.1:{node.port}"
    cache = DjangoCache(url, {"TIMEOUT": 100, "VERSION": 1, "KEY_PREFIX": "site"})
    yield cache
    cache.close()


def test_the_cache_of_django_keeps_values_and_their_time(django_cache: DjangoCache, node: NodeProcess) -> None:
    cache = django_cache
    cache.set("page", {"title": "Home", "tags": [1, 2.5, None]})
    assert cache.get("page") == {"title": "Home", "tags": [1, 2.5, None]}
    assert cache.get("none", "default") == "default"
    with node.client() as client:
        assert 90 < client.ttl("site:1:page") <= 100
    assert cache.add("page", "other") is False
    assert cache.add("new", "first") is True
    assert cache.touch("new", timeout=None) is True
    with node.client() as client:
        assert client.ttl("site:1:new") == -1
    assert cache.get_or_set("lazy", lambda: 7) == 7
    assert cache.has_key("lazy") is True
    cache.set("gone", 1, timeout=0)
    assert cache.get("gone") is None
    assert cache.delete("lazy") is True
    assert cache.delete("lazy") is False


def test_the_cache_of_django_does_many_at_once_and_counts(node: NodeProcess) -> None:
    """`set_many` is one transaction: with several shards its keys need a hash tag."""
    url = f"redis://127.0.0.1:{node.port}"
    with pytest.raises(ResponseError, match="same slot"):
        DjangoCache(url, {}).set_many({f"key{number}": number for number in range(100)})
    cache = DjangoCache(url, {"TIMEOUT": 100, "KEY_PREFIX": "{site}"})
    values = {f"key{number}": number for number in range(100)}
    assert cache.set_many(values, timeout=None) == []
    assert cache.get_many([*values, "none"]) == values
    cache.delete_many(list(values)[:50])
    assert len(cache.get_many(values)) == 50
    cache.set("visits", 10)
    assert cache.incr("visits", 5) == 15
    assert cache.decr("visits") == 14
    with pytest.raises(ValueError, match="not found"):
        cache.incr("none")
    cache.set("versioned", "one")
    assert cache.incr_version("versioned") == 2
    assert cache.get("versioned", version=2) == "one"
    assert cache.set_many({"brief": 1}, timeout=50) == []
    with node.client() as client:
        assert 40 < client.ttl("{site}:1:brief") <= 50
    assert cache.clear() is True
    assert cache.get_many(values) == {}
    cache.close()


def test_sessions_of_django_in_its_cache(node: NodeProcess) -> None:
    backend = "django.core.cache.backends.redis.RedisCache"
    location = f"redis://127.0.0.1:{node.port}"
    if not django_settings.configured:
        django_settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": location}})
    caches["default"]  # made by the settings above
    session = SessionStore()
    session["user"] = 7
    session.set_expiry(100)
    session.save()
    again = SessionStore(session.session_key)
    assert again["user"] == 7
    again["user"] = 8
    again.save()
    again.cycle_key()
    assert SessionStore(again.session_key)["user"] == 8
    assert SessionStore(session.session_key).load() == {}
    again.flush()
    assert SessionStore(again.session_key).load() == {}


# --- cachelib and aiocache ---


def test_the_cache_of_cachelib(node: NodeProcess) -> None:
    cache = CachelibCache("127.0.0.1", node.port, default_timeout=100, key_prefix="app:")
    assert cache.set("key", {"a": 1})
    assert cache.get("key") == {"a": 1}
    assert cache.add("key", 2) is False
    assert cache.set_many({"one": 1, "two": "zwei"})
    assert cache.get_many("one", "two", "none") == [1, "zwei", None]
    assert cache.get_dict("one", "two") == {"one": 1, "two": "zwei"}
    assert cache.inc("count", 3) == 3
    assert cache.dec("count") == 2
    assert cache.has("one")
    assert cache.delete("one")
    assert not cache.has("one")
    with node.client() as client:
        client.set("not of the application", "x")
        assert cache.clear()
        assert client.keys() == [b"not of the application"]


def test_the_cache_of_aiocache(node: NodeProcess) -> None:
    async def job() -> None:
        cache = RedisCache(
            endpoint="127.0.0.1", port=node.port, namespace="app:", serializer=JsonSerializer(), pool_max_size=60,
            timeout=60, create_connection_timeout=60,
        )  # fmt: skip
        assert await cache.set("key", {"a": [1, 2]}, ttl=100)
        assert await cache.get("key") == {"a": [1, 2]}
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("key", 1)
        await cache.multi_set([("one", 1), ("two", 2)])
        assert await cache.multi_get(["one", "two", "none"]) == [1, 2, None]
        assert await cache.increment("count", 5) == 5
        assert await cache.expire("one", 100) is True
        assert await cache.expire("one", 0) is True  # PERSIST
        assert await cache.exists("two") is True
        assert await cache.delete("two") == 1
        await asyncio.gather(*(cache.set(f"many{number}", number) for number in range(50)))
        await cache.clear(namespace="app:")
        assert await cache.get("many7") is None
        await cache.close()

    asyncio.run(asyncio.wait_for(job(), 60))


# --- what people build on SET NX PX and on INCR and EXPIRE ---


class SimpleLock:
    """The lock of Redis's documentation without its script: a random word, and only its holder takes it away."""

    def __init__(self, client: Any, name: str, word: str) -> None:
        self.client, self.name, self.word = client, name, word

    def acquire(self) -> bool:
        return bool(self.client.set(self.name, self.word, nx=True, px=30_000))

    def release(self) -> None:
        if self.client.get(self.name) == self.word.encode():
            self.client.delete(self.name)


def test_a_lock_lets_in_one_at_a_time_whatever_node_they_ask(cluster: TestCluster) -> None:
    inside, most, entries = 0, 0, 0
    guard = threading.Lock()

    def work(number: int) -> None:
        nonlocal inside, most, entries
        with cluster.nodes[number % 3].client() as client:
            lock = SimpleLock(client, "lock", f"holder {number}")
            for _ in range(5):
                while not lock.acquire():
                    time.sleep(0.002)
                with guard:
                    inside += 1
                    most = max(most, inside)
                    entries += 1
                time.sleep(0.001)
                with guard:
                    inside -= 1
                lock.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, entries) == (1, 30)


def rate_limited(client: Any, user: str, limit: int, window_s: int) -> bool:
    """The pattern of Redis's documentation: a counter that ends with its window."""
    count = client.incr(f"rate:{user}")
    if count == 1:
        client.expire(f"rate:{user}", window_s)
    return bool(count > limit)


def test_a_rate_limiter_over_all_nodes_lets_pass_what_it_should(cluster: TestCluster) -> None:
    clients = [node.client() for node in cluster.nodes]
    passed = [not rate_limited(clients[number % 3], "ann", 10, 100) for number in range(30)]
    assert passed == [True] * 10 + [False] * 20
    assert not rate_limited(clients[0], "bob", 10, 100)
    assert 90 < clients[1].ttl("rate:ann") <= 100
    clients[2].pexpire("rate:ann", 1)
    wait_until(lambda: not rate_limited(clients[0], "ann", 10, 100), "a new window")
    for client in clients:
        client.close()
