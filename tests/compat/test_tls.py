"""TLS with real clients, with certificates of an authority made for the test: for clients, between nodes, renewed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme

from respkv.client import Address, Client, ClientError
from tests.cluster import NodeProcess, TestCluster, running_cluster, wait_until

HOST = "127.0.0.1"


class Authority:
    """Signs certificates and writes them to files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of `name`."""
        issued = self.ca.issue_cert("localhost", HOST, common_name=name)
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TestCluster]:
    """Three nodes that speak TLS with each other and, on ports of their own, with clients."""
    certificate, key = authority.issue("node")
    files = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key), "TLS_CA_CERT_FILE": str(authority.file)}
    directory = tmp_path_factory.mktemp("tls")
    with running_cluster(directory, start=False, TLS_CLUSTER="yes", **files) as cluster:
        for node in cluster.nodes:
            node.options |= {"TLS_PORT": str(node.port + 500), "TLS_CLUSTER_PORT": str(node.cluster_port + 500)}
        cluster.start(timeout_s=60)
        yield cluster


@pytest.fixture
def node(cluster: TestCluster) -> NodeProcess:
    return cluster.nodes[0]


def secure(
    node: NodeProcess, authority: Authority, client: tuple[Path, Path] | None, port_shift: int = 500
) -> redis.Redis:
    certificate, key = client or (None, None)
    return redis.Redis(
        node.host,
        node.port + port_shift,
        ssl=True,
        ssl_ca_certs=str(authority.file),
        ssl_certfile=certificate and str(certificate),
        ssl_keyfile=key and str(key),
        socket_timeout=20,
        retry=None,
    )


def test_a_client_with_a_certificate_is_served(node: NodeProcess, authority: Authority) -> None:
    client = secure(node, authority, authority.issue("client"))
    value = "x" * 3_000_000
    assert client.set("long", value)
    assert client.get("long") == value.encode()
    with client.pipeline(transaction=False) as pipe:
        for number in range(2000):
            pipe.set(f"k{number}", number)
        for number in range(2000):
            pipe.get(f"k{number}")
        assert pipe.execute()[2000:] == [b"%d" % number for number in range(2000)]


def test_clients_without_or_with_a_strange_certificate_are_refused_until_they_need_none(
    node: NodeProcess, authority: Authority, stranger: Authority
) -> None:
    for certificate in (None, stranger.issue("client")):
        with pytest.raises((redis.ConnectionError, ssl.SSLError)):
            secure(node, authority, certificate).ping()
    try:
        node.call("CONFIG", "SET", "tls-auth-clients", "optional")
        wait_until(lambda: secure(node, authority, None).ping(), "clients without a certificate are served")
        with pytest.raises((redis.ConnectionError, ssl.SSLError)):
            secure(node, authority, stranger.issue("client")).ping()
        node.call("CONFIG", "SET", "tls-auth-clients", "no")
        wait_until(lambda: secure(node, authority, stranger.issue("client")).ping(), "nothing is checked")
    finally:
        node.call("CONFIG", "SET", "tls-auth-clients", "yes")


def test_the_server_shows_a_certificate_that_its_clients_can_check(
    node: NodeProcess, authority: Authority, stranger: Authority
) -> None:
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        secure(node, stranger, authority.issue("client")).ping()


def test_plain_text_on_a_tls_port_is_no_way_in(node: NodeProcess) -> None:
    with socket.create_connection((HOST, node.port + 500), 10) as plain:
        plain.sendall(b"PING\r\n")
        assert b"PONG" not in plain.recv(100)
    assert node.answers()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not in PATH")
def test_redis_cli_speaks_tls(node: NodeProcess, authority: Authority) -> None:
    certificate, key = authority.issue("cli")
    command = ["redis-cli", "-h", HOST, "--tls", "--cacert", str(authority.file), "--cert", str(certificate)]
    command += ["--key", str(key)]
    shown = subprocess.run(
        [*command, "-p", str(node.port + 500), "SET", "cli", "works"], capture_output=True, text=True, timeout=20
    )
    assert shown.stdout == "OK\n", shown
    for i in range(20):  # of whatever shard: it follows MOVED to TLS ports
        shown = subprocess.run(
            [*command, "-p", str(node.cluster_port + 500), "-c", "SET", f"cli{i}", "works"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert shown.stdout == "OK\n", shown


def test_clients_of_the_cluster_view_are_told_the_ports_of_their_kind(
    cluster: TestCluster, node: NodeProcess, authority: Authority
) -> None:
    certificate, key = authority.issue("cluster-client")
    client = redis.RedisCluster(
        HOST, node.cluster_port + 500, ssl=True, ssl_ca_certs=str(authority.file), ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
    )  # fmt: skip
    for number in range(50):
        assert client.set(f"c{number}", number)
        assert client.get(f"c{number}") == b"%d" % number
    assert {known.port for known in client.get_nodes()} == {each.cluster_port + 500 for each in cluster.nodes}
    plain = redis.RedisCluster(HOST, node.cluster_port)
    assert {known.port for known in plain.get_nodes()} == {each.cluster_port for each in cluster.nodes}


def test_certificates_are_renewed_while_clients_stay(
    node: NodeProcess, authority: Authority, stranger: Authority
) -> None:
    """By CONFIG SET, or by SIGHUP when the files have another content."""
    client = secure(node, authority, authority.issue("client"))
    stays = client.connection_pool.get_connection()
    files = {name: node.call("CONFIG", "GET", name)[1] for name in ("tls-cert-file", "tls-key-file")}

    def shown() -> bytes:
        with socket.create_connection((HOST, node.port + 500), 10) as plain:
            context = ssl.create_default_context(cafile=authority.file)
            context.load_cert_chain(*authority.issue("client"))
            with context.wrap_socket(plain, server_hostname=HOST) as wrapped:
                return wrapped.getpeercert(binary_form=True) or b""

    before = shown()
    try:
        certificate, key = authority.issue("renewed")
        node.call("CONFIG", "SET", "tls-cert-file", str(certificate), "tls-key-file", str(key))
        wait_until(lambda: shown() != before, "the new certificate is shown")
        by_config = shown()
        authority.issue("renewed")
        node.signal(signal.SIGHUP)
        wait_until(lambda: shown() not in (before, by_config), "the newest certificate is shown")
        stays.send_command("PING")
        assert stays.read_response() == b"PONG"
        with pytest.raises(ClientError, match=r"CONFIG SET failed .*tls-cert-file"):
            node.call("CONFIG", "SET", "tls-cert-file", str(certificate), "tls-key-file", str(stranger.issue("x")[1]))
        assert shown() not in (before, by_config)
    finally:
        node.call("CONFIG", "SET", *(word for pair in files.items() for word in pair))


def test_nodes_speak_tls_with_each_other(cluster: TestCluster, authority: Authority, stranger: Authority) -> None:
    """A node that another authority has signed is no member; the others go on, and it is one again with its own."""
    node, others = cluster.nodes[2], cluster.nodes[:2]
    peer = others[0].peer_port
    with socket.create_connection((HOST, peer), 10) as plain:
        context = ssl.create_default_context(cafile=authority.file)
        context.load_cert_chain(*authority.issue("spy"))
        with context.wrap_socket(plain, server_hostname=HOST) as wrapped:
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
    with socket.create_connection((HOST, peer), 10) as plain:
        plain.settimeout(1)
        with pytest.raises(TimeoutError):
            plain.recv(1)  # nothing is said in plain text
    good = dict(node.options)
    node.stop()
    certificate, key = stranger.issue("node")
    node.options |= {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    node.start()
    wait_until(lambda: others[0].call("SET", "without", "it") == b"OK", "two of three serve")
    assert [line for line in others[0].call("CLUSTER", "NODES").splitlines() if b"fail?" in line]
    node.stop()
    node.options = good
    node.start()
    cluster.wait_ready()
    assert node.call("GET", "without") == b"it"


def test_a_port_may_speak_tls_alone(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue("only")
    files = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key), "TLS_AUTH_CLIENTS": "no"}
    with running_cluster(tmp_path, nodes=1, shards=1, start=False, **files) as cluster:
        node = cluster.nodes[0]
        node.options |= {"TLS_PORT": str(node.port), "TLS_CLUSTER_PORT": str(node.cluster_port)}
        node.start()
        wait_until(secure(node, authority, None, port_shift=0).ping, "it answers over TLS")
        status = subprocess.run(
            [sys.executable, "-m", "respkv", "status", "--url", f"rediss://{HOST}:{node.port}"],
            env=os.environ | {"SSL_CERT_FILE": str(authority.file)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert status.returncode == 0, status
        assert "leader" in status.stdout
        with pytest.raises(ClientError), Client(Address(HOST, node.port), 5.0) as plain:
            plain.call("PING")


def test_a_node_without_its_certificate_does_not_start(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=1, shards=1, start=False, TLS_PORT="9") as cluster:
        node = cluster.nodes[0]
        node.start()
        assert node.process is not None
        assert node.process.wait(60) == 2
        assert "tls-cert-file: must be given for TLS" in node.log()
