"""The handshake: both ends know the secret, or nothing that the other says is looked at."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from respkv.cluster.handshake import MAGIC, Handshake, HandshakeError

SECRET = b"the cluster's secret"


def pair(theirs: bytes = SECRET) -> tuple[Handshake, Handshake]:
    return Handshake(SECRET, dialer=True), Handshake(theirs, dialer=False)


def test_both_ends_are_done_after_three_steps_of_fixed_length() -> None:
    dialer, acceptor = pair()
    hello = dialer.take_output()
    assert (len(hello), hello[:4]) == (36, MAGIC)
    acceptor.feed(hello)
    answer = acceptor.take_output()
    assert len(answer) == 64
    dialer.feed(answer)
    proof = dialer.take_output()
    assert (len(proof), dialer.done, acceptor.done) == (32, True, False)
    acceptor.feed(proof)
    assert acceptor.done
    assert acceptor.take_output() == b""


def test_the_proofs_are_hmac_sha256_over_role_and_both_nonces() -> None:
    dialer = Handshake(SECRET, dialer=True, nonce=b"d" * 32)
    acceptor = Handshake(SECRET, dialer=False, nonce=b"a" * 32)
    acceptor.feed(dialer.take_output())
    answer = acceptor.take_output()
    nonces = b"d" * 32 + b"a" * 32
    assert answer == b"a" * 32 + hmac.new(SECRET, b"acceptor" + nonces, hashlib.sha256).digest()
    dialer.feed(answer)
    assert dialer.take_output() == hmac.new(SECRET, b"dialer" + nonces, hashlib.sha256).digest()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 31, 33, 1000])
def test_bytes_may_come_in_any_pieces_and_what_follows_is_kept(step: int) -> None:
    dialer, acceptor = pair()
    to_acceptor, to_dialer = dialer.take_output(), b""

    def feed(side: Handshake, data: bytes) -> None:
        for start in range(0, len(data), step):
            side.feed(data[start : start + step])

    feed(acceptor, to_acceptor)
    to_dialer = acceptor.take_output() + b"first bytes behind"
    feed(dialer, to_dialer)
    assert dialer.done
    assert dialer.rest == b"first bytes behind"
    feed(acceptor, dialer.take_output() + b"and these")
    assert acceptor.done
    assert acceptor.rest == b"and these"


def test_an_acceptor_with_another_secret_is_found_out_before_the_dialer_proves_anything() -> None:
    dialer, acceptor = pair(b"another secret")
    acceptor.feed(dialer.take_output())
    with pytest.raises(HandshakeError, match="secret"):
        dialer.feed(acceptor.take_output())
    assert dialer.take_output() == b""
    assert not dialer.done


def test_a_dialer_with_another_secret_is_refused() -> None:
    dialer, acceptor = Handshake(b"another secret", dialer=True), Handshake(SECRET, dialer=False)
    acceptor.feed(dialer.take_output())
    nonce = acceptor.take_output()[:32]
    dialer._theirs = nonce
    with pytest.raises(HandshakeError, match="secret"):
        acceptor.feed(dialer._proof(b"dialer"))
    assert not acceptor.done


def test_an_acceptors_own_proof_echoed_back_is_no_proof() -> None:
    acceptor = Handshake(SECRET, dialer=False)
    acceptor.feed(MAGIC + b"n" * 32)
    answer = acceptor.take_output()
    with pytest.raises(HandshakeError):
        acceptor.feed(answer[32:])


def test_a_dialers_own_nonce_reflected_by_another_connection_is_no_proof() -> None:
    """The attacker answers a dialer with what a second dialing (of the same node) gives it."""
    dialer, second = Handshake(SECRET, dialer=True), Handshake(SECRET, dialer=True)
    mine = dialer.take_output()[4:]
    theirs = second.take_output()[4:]
    for nonce in (mine, theirs):
        with pytest.raises(HandshakeError):
            Handshake(SECRET, dialer=True, nonce=mine).feed(nonce + hmac.new(b"", nonce, hashlib.sha256).digest())
        with pytest.raises(HandshakeError):
            Handshake(SECRET, dialer=True, nonce=mine).feed(nonce + nonce)


def test_a_recorded_exchange_is_worth_nothing_again() -> None:
    dialer, acceptor = pair()
    hello = dialer.take_output()
    acceptor.feed(hello)
    answer = acceptor.take_output()
    dialer.feed(answer)
    proof = dialer.take_output()
    again = Handshake(SECRET, dialer=False)
    again.feed(hello)
    with pytest.raises(HandshakeError):
        again.feed(proof)
    with pytest.raises(HandshakeError):
        Handshake(SECRET, dialer=True).feed(answer)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n", b"\0", b"RKV2" + bytes(32), b"*1\r\n$4\r\nPING\r\n"])
def test_what_is_not_our_protocol_is_refused_at_its_first_wrong_byte_without_an_answer(garbage: bytes) -> None:
    acceptor = Handshake(SECRET, dialer=False)
    wrong = next(n for n in range(4) if garbage[n : n + 1] != MAGIC[n : n + 1])
    acceptor.feed(garbage[:wrong])
    with pytest.raises(HandshakeError, match="not a respkv node"):
        acceptor.feed(garbage[wrong:])
    assert acceptor.take_output() == b""


def test_every_flipped_bit_of_a_proof_is_noticed() -> None:
    for bit in range(0, 64 * 8, 5):
        dialer, acceptor = pair()
        acceptor.feed(dialer.take_output())
        answer = bytearray(acceptor.take_output())
        answer[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandshakeError):
            dialer.feed(bytes(answer))
