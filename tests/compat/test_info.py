"""What a server tells of itself (INFO, CLUSTER INFO, CLIENT LIST): Redis's fields, in its order and of its kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.cluster import NodeProcess, running_redis
from tests.compat.targets import SocketTarget

# Their fields are commands, errors and databases: what has happened.
OF_WHAT_HAPPENED = frozenset(("Commandstats", "Errorstats", "Latencystats", "Keyspace"))
KINDS = {
    "whole": r"-?\d+",
    "hundredths": r"-?\d+\.\d\d",
    "millionths": r"\d+\.\d{6}",
    "percent": r"\d+\.\d\d%",
    "size": r"\d+(\.\d\d)?[BKMGTP]",
    "status": r"ok|err|fail",
}


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketTarget]:
    """With an append-only file, as we are, and a cluster's node."""
    options = ("--appendonly", "yes", "--cluster-enabled", "yes")
    with running_redis(tmp_path_factory.mktemp("redis"), *options) as port:
        target = SocketTarget(port)
        yield target
        target.close()


@pytest.fixture
def ours(single: NodeProcess) -> Iterator[SocketTarget]:
    target = SocketTarget(single.cluster_port)
    yield target
    target.close()


def kind(value: str) -> str:
    return next((name for name, form in KINDS.items() if re.fullmatch(form, value)), "text")


def sections(target: SocketTarget) -> dict[str, dict[str, str]]:
    """INFO as monitoring reads it: a title, then a field and its value in each line."""
    [text] = target.run([[b"INFO", b"everything"]])
    found: dict[str, dict[str, str]] = {}
    for part in text.decode().split("\r\n\r\n"):
        title, *lines = part.split("\r\n")
        found[title.removeprefix("# ")] = dict(line.split(":", 1) for line in lines if line)
    return found


def test_info_has_the_sections_and_fields_of_redis_in_its_order_and_of_its_kinds(
    redis: SocketTarget, ours: SocketTarget
) -> None:
    theirs, own = sections(redis), sections(ours)
    assert [title for title in own if title in theirs] == list(theirs)
    for title in theirs.keys() - OF_WHAT_HAPPENED:
        assert [name for name in own[title] if name in theirs[title]] == list(theirs[title]), title
        for name, value in theirs[title].items():
            assert kind(own[title][name]) == kind(value), name


def test_cluster_info_has_the_fields_of_redis_in_its_order(redis: SocketTarget, ours: SocketTarget) -> None:
    def fields(target: SocketTarget) -> list[str]:
        [text] = target.run([[b"CLUSTER", b"INFO"]])
        return [line.split(":")[0] for line in text.decode().splitlines()]

    assert fields(ours) == fields(redis)


def test_client_list_begins_with_the_fields_of_redis_in_its_order(redis: SocketTarget, ours: SocketTarget) -> None:
    def names(target: SocketTarget) -> list[str]:
        [text] = target.run([[b"CLIENT", b"LIST"]])
        return [field.split("=")[0] for field in text.decode().splitlines()[0].split(" ")]

    theirs = names(redis)
    assert names(ours)[: len(theirs)] == theirs


def test_a_client_that_is_asked_with_is_told_alike(redis: SocketTarget, ours: SocketTarget) -> None:
    """What Redis shows of the client that asks, in one pipeline with what it was answered before."""

    def shown(target: SocketTarget) -> dict[str, str]:
        _, text = target.run([[b"ECHO", b"x" * 100], [b"CLIENT", b"INFO"]])
        fields = dict(field.split("=", 1) for field in text.decode().split(" "))
        return {name: fields[name] for name in ("qbuf", "argv-mem", "multi-mem", "obl", "oll", "omem", "cmd")}

    assert shown(ours) == shown(redis)
