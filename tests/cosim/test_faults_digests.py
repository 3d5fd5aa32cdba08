# SPDX-License-Identifier: Apache-2.0
"""What crosses is what was sent: damaged messages are repaired or refused, constants are what their digest says."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ditto_cosim.device.serving.store import Store
from ditto_cosim.host.wire import link
from ditto_cosim.host.wire.client import connect
from ditto_cosim.host.wire.link import Link
from ditto_cosim.protocol import codec, tensors
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DamagedError, DittoError, QuotaError, RequestError, TensorError
from support.wire_harness import BadCable, Faults, Given, Proxy, run_steps, serving
from support.wire_programs import chain

STEPS = 4
SPEC = m.RunSpec(backend="model", chip="tiny", design="ditto")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ASK_AGAIN_S", 0.05)
    monkeypatch.setattr(link, "ASK_AGAIN_MOST_S", 0.2)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    with serving(f"ipc://{tmp_path_factory.mktemp('s')}/device") as address, connect(address) as device:
        yield run_steps(device.open_run(*chain(), SPEC), STEPS, observe="all")


# --- damage on the way ------------------------------------------------------------------------------------------------


def through_flips(seed: int, flip: float, directory: Path, expected: Given) -> int:
    front = f"ipc://{directory}/front"
    with serving(f"ipc://{directory}/device") as address:
        proxy = Proxy(address, front, Faults(flip=flip), seed)
        try:
            with connect(front) as device, device.open_run(*chain(), SPEC) as run:
                assert run_steps(run, STEPS, observe="all") == expected
                assert run.recoveries == 0
        finally:
            proxy.close()
    return proxy.counts["flipped"]


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_change_nothing(seed: int, tmp_path: Path, expected: Given) -> None:
    assert through_flips(seed, 0.2, tmp_path, expected) > 10


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 150))
def test_flipped_bits_anywhere_change_nothing(seed: int, tmp_path: Path, expected: Given) -> None:
    assert through_flips(seed, 0.3, tmp_path, expected) > 10


def over_a_bad_cable(seed: int, expected: Given) -> tuple[int, str]:
    """Flips in the byte stream itself, ZeroMQ's framing included: the same run, or an error with a name."""
    with serving("tcp://127.0.0.1:*") as address:
        cable = BadCable(int(address.rpartition(":")[2]), seed, per_mebibyte=60.0, spare_bytes=2000)
        try:
            with connect(f"tcp://127.0.0.1:{cable.port}", dead_s=4.0, timeout_s=5.0) as device:
                run = device.open_run(*chain(), SPEC)
                assert run_steps(run, STEPS, observe="all") == expected
                ended = "same"
        except DittoError as error:
            ended = type(error).__name__
        finally:
            cable.close()
    return cable.flips, ended


def test_a_bad_cable_never_changes_a_run(expected: Given) -> None:
    flips, ended = over_a_bad_cable(3, expected)
    assert flips > 0
    assert ended != "DeviceError"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_bad_cables_never_change_a_run(seed: int, expected: Given) -> None:
    over_a_bad_cable(seed, expected)


@pytest.mark.parametrize("name", ["host", "device"])
def test_every_flipped_bit_of_a_message_is_found(name: str) -> None:
    """Every bit of a whole message, header, seal and tensors."""
    if name == "host":
        header, frame = tensors.to_frame("x", np.arange(6, dtype=np.float32))
        message: m.Message = m.Step(run="r", seq=3, step=1, inputs=[header])
        frames, decode = codec.encode(message, [frame]), codec.decode_host
    else:
        header, frame = tensors.to_frame("7", np.arange(9, dtype=np.int8))
        message = m.Observed(run="r", seq=3, index=0, value=7, tensor=header)
        frames, decode = codec.encode(message, [frame]), codec.decode_device  # type: ignore[assignment]
    assert decode(frames, m.Limits()) == message
    for at, whole in enumerate(frames):
        for bit in range(8 * len(whole)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedError):
                decode([*frames[:at], bytes(damaged), *frames[at + 1 :]], m.Limits())


def test_a_message_that_lost_its_boundary_is_damaged() -> None:
    message = m.PutTensors(run="r", seq=1, pieces=[m.Piece(digest="0" * 32), m.Piece(digest="1" * 32)])
    header, *_ = codec.encode(message, [b"abcd", b"ef"])
    with pytest.raises(DamagedError):
        codec.decode_host([header, b"abc", b"def"], m.Limits())


def test_a_peer_that_never_sends_a_whole_message_is_given_up(tmp_path: Path) -> None:
    with serving(f"ipc://{tmp_path}/device") as address:
        proxy = Proxy(address, f"ipc://{tmp_path}/front", Faults(flip=1.0), 1)
        try:
            with pytest.raises(DittoError, match="damaged"):
                Link(f"ipc://{tmp_path}/front", timeout_s=20.0)
        finally:
            proxy.close()


# --- constants --------------------------------------------------------------------------------------------------------


def opened(device: Any, program: Any, keys: dict[str, m.TensorKey], run: str) -> m.Opened:
    request = m.OpenRun(run=run, seq=0, spec=SPEC, constants=keys)
    reply, _ = device.link.request(request, [codec.encode_program(program)])
    assert isinstance(reply, m.Opened)
    return reply


def test_a_digest_alone_opens_nobody_elses_weights(tmp_path: Path) -> None:
    program, constants = chain(2)
    with (
        serving(f"ipc://{tmp_path}/device") as address,
        connect(address) as owner,
        connect(address) as other,
        owner.open_run(program, constants, SPEC) as run,
    ):
        keys = run._keys
        assert sorted(opened(other, program, keys, "thief").missing) == sorted(
            {key.digest for key in keys.values()}
        )
        with pytest.raises(RequestError, match="has not arrived"):
            other.link.request(m.Start(run="thief", seq=1), [])
        assert opened(owner, program, keys, "again").missing == []
        assert run_steps(other.open_run(program, constants, SPEC), 2) == run_steps(run, 2)


def test_poisoned_constants_reach_nobody(tmp_path: Path) -> None:
    """One host sends other bytes under a digest, before and after another host's run uses the true ones."""
    program, constants = chain(2)
    poison = {name: np.zeros_like(array) for name, array in constants.items()}
    with (
        serving(f"ipc://{tmp_path}/device") as address,
        connect(address) as victim,
        connect(address) as attacker,
        victim.open_run(program, constants, SPEC) as run,
    ):
        first = run_steps(run, 1)
        for attempt in range(2):
            name = f"poison{attempt}"
            missing = opened(attacker, program, run._keys, name).missing
            assert missing
            by_digest = {key.digest: poison[n] for n, key in run._keys.items()}
            put = m.PutTensors(run=name, seq=1, pieces=[m.Piece(digest=d) for d in missing])
            with pytest.raises(TensorError, match="its bytes have digest"):
                attacker.link.request(put, [tensors.array_bytes(by_digest[d]) for d in missing])
            with pytest.raises(RequestError, match="has not arrived"):
                attacker.link.request(m.Start(run=name, seq=2), [])
        again = victim.open_run(program, constants, SPEC)
        assert run_steps(again, 1) == first
        with connect(address) as third:
            assert run_steps(third.open_run(program, constants, SPEC), 1) == first


def key_of(data: bytes) -> str:
    return tensors.digest_of(data)


def test_store_keeps_what_a_run_holds() -> None:
    store, data = Store(1000), secrets.token_bytes(100)
    digest = key_of(data)
    assert store.claim("a", b"A", {digest: 100}) == [digest]
    store.put("a", digest, 0, data)
    held = store.get("a", digest)
    assert store.claim("b", b"B", {digest: 100}) == [digest]
    store.put("b", digest, 0, bytes(data))
    assert store.get("a", digest) is held
    assert store.get("b", digest) is held
    assert store.held_bytes == 100
    with pytest.raises(RequestError, match="has not arrived"):
        store.get("c", digest)
    store.release("a")
    store.release("b")
    store.forget(b"A")
    assert store.claim("a", b"A", {digest: 100}) == [digest]
    assert store.claim("d", b"B", {digest: 100}) == []


def test_store_takes_pieces_in_any_order_and_hashes_them() -> None:
    data = secrets.token_bytes(1000)
    digest = key_of(data)
    for order in ([0, 300, 600], [600, 0, 300]):
        store = Store(5000)
        store.claim("a", b"A", {digest: 1000})
        for offset in order:
            store.put("a", digest, offset, data[offset : offset + (300 if offset < 600 else 400)])
        assert bytes(store.get("a", digest)) == data
    store = Store(5000)
    store.claim("a", b"A", {digest: 1000})
    store.put("a", digest, 0, data[:300])
    store.put("a", digest, 300, data[:300])
    with pytest.raises(TensorError, match="its bytes have digest"):
        store.put("a", digest, 600, data[600:])
    with pytest.raises(RequestError, match="has not arrived"):
        store.get("a", digest)


def test_store_refuses_another_size_under_a_known_digest() -> None:
    store, data = Store(1000), secrets.token_bytes(100)
    digest = key_of(data)
    store.claim("a", b"A", {digest: 100})
    store.put("a", digest, 0, data)
    assert store.claim("b", b"A", {digest: 50}) == [digest]
    with pytest.raises(TensorError, match="its bytes have digest"):
        store.put("b", digest, 0, data[:50])
    with pytest.raises(QuotaError):
        store.claim("c", b"A", {key_of(b"x"): 2000})
