# SPDX-License-Identifier: Apache-2.0
"""Who may talk: local addresses without keys, others only with keys that the device admits."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
import zmq

from ditto_cosim.host.wire.client import connect
from ditto_cosim.host.wire.supervisor import LocalDevice
from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import DeviceLostError, RequestError, SecurityError
from ditto_cosim.protocol.messages import RunSpec
from support.device_processes import running
from support.wire_harness import run_steps
from support.wire_programs import chain

pytestmark = pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("ipc:///tmp/x", True),
        ("tcp://127.0.0.1:5", True),
        ("tcp://127.8.9.1:5", True),
        ("tcp://[::1]:5", True),
        ("tcp://localhost:5", True),
        ("tcp://0.0.0.0:5", False),
        ("tcp://*:5", False),
        ("tcp://eth0:5", False),
        ("tcp://10.0.0.1:5", False),
        ("tcp://127.0.0.1.example.org:5", False),
        ("tcp://[::]:5", False),
    ],
)
def test_reachable_addresses_need_keys(address: str, local: bool) -> None:
    assert security.is_local(address) == local
    if not local:
        with pytest.raises(SecurityError, match="takes keys on both sides"):
            security.check_address(address, None)
        with pytest.raises(SecurityError, match="takes keys on both sides"):
            connect(address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "127.0.0.1:5",
            "udp://127.0.0.1:5",
            "tcp:/x",
            "inproc://x",
            "tcp://127.0.0.1:99999",
            "tcp://127.0.0.1",
        ),
        *(
            "tcp://127.0.0.1:5,tcp://10.0.0.1:5",
            "ipc:///tmp/a b",
            "ipc:///tmp/\x1b[31m",
            "ipc://*",
            "ipc://@everybodys",
            "ipc://" + "x" * 99,
        ),
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SecurityError, match=r"expected ipc://PATH or tcp://HOST:PORT"):
        connect(address)


def host_keys(keys: Path, name: str, to: Path) -> Path:
    """What an administrator copies to a host's machine."""
    to.mkdir()
    (to / "device.key").write_bytes((keys / "device.key").read_bytes())
    (to / f"{name}.key_secret").write_bytes((keys / f"{name}.key_secret").read_bytes())
    (to / f"{name}.key_secret").chmod(0o600)
    return to


def test_admitted_host_runs_and_strangers_do_not(tmp_path: Path) -> None:
    keys, other = tmp_path / "keys", tmp_path / "other"
    written = security.make_keys(keys, "alice")
    assert {p.name for p in written} == {"device.key", "device.key_secret", "alice.key", "alice.key_secret"}
    security.make_keys(other, "alice")
    security.make_keys(other, "bob")
    alice = host_keys(keys, "alice", tmp_path / "alice")
    stranger = host_keys(other, "alice", tmp_path / "stranger")
    bob = host_keys(other, "bob", tmp_path / "bob")
    for directory in (stranger, bob):
        (directory / "device.key").write_bytes((keys / "device.key").read_bytes())
    with running("tcp://0.0.0.0:*", tmp_path / "log", "--keys", str(keys)) as running_device:
        address = running_device.address.replace("0.0.0.0", "127.0.0.1")
        with (
            connect(address, alice, dead_s=3.0) as device,
            device.open_run(*chain(2), RunSpec(chip="tiny")) as run,
        ):
            run_steps(run, 1)
            with pytest.raises(RequestError, match="is a path; a device on another machine"):
                device.open_run(*chain(2), RunSpec(chip="/etc/passwd"))
            for with_keys in (stranger, None, bob):
                with pytest.raises(DeviceLostError, match="no device answers"):
                    connect(address, with_keys, timeout_s=0.7)
            # Admitted while the device runs, and revoked again.
            admitted = keys / "hosts" / "bob.key"
            admitted.write_bytes((other / "hosts" / "bob.key").read_bytes())
            time.sleep(0.5)
            with connect(address, bob, timeout_s=5.0) as second, second.open_run(*chain(2)) as theirs:
                run_steps(theirs, 1)
                second._revivals_left = 0
                admitted.unlink()
                time.sleep(0.5)
                with pytest.raises(DeviceLostError, match="key was revoked"):
                    run_steps(theirs, 1)
            with pytest.raises(DeviceLostError, match="no device answers"):
                connect(address, bob, timeout_s=0.7)
            # Another key cannot speak under the first one's identity.
            admitted.write_bytes((other / "hosts" / "bob.key").read_bytes())
            time.sleep(0.3)
            assert (
                refusal_under(address, bob, bytes(device.link._socket.raw.getsockopt(zmq.IDENTITY)))
                == "SecurityError"
            )


def refusal_under(address: str, keys: Path, identity: bytes) -> str:
    """What a host of these keys is told that takes an identity that is not its own."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, identity)
    security.use_keys(socket, keys)
    socket.connect(address)
    try:
        socket.send_multipart(codec.encode(m.Ping(token=1)))
        assert socket.poll(5000)
        told = codec.decode_device(socket.recv_multipart(), m.Limits())
        assert isinstance(told, m.Error)
        return told.kind
    finally:
        context.destroy(0)


def test_path_that_is_not_a_dead_socket_of_ours_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("ten years")
    with pytest.raises(SecurityError, match="a file is there, and it is no socket"):
        security.claim_path(precious)
    assert precious.read_text() == "ten years"
    link = tmp_path / "link"
    link.symlink_to(precious)
    with pytest.raises(SecurityError, match="it is no socket"):
        security.claim_path(link)
    with running(f"ipc://{tmp_path}/d", tmp_path / "log") as first:
        assert stat.S_IMODE((tmp_path / "d").stat().st_mode) & 0o077 == 0
        with pytest.raises(SecurityError, match="something listens there already"):
            security.claim_path(tmp_path / "d")
        with connect(first.address):
            first.process.kill()
            first.process.wait()
        dead = [tmp_path / "d", tmp_path / "d.1"]
        assert all(path.exists() for path in dead)
        with running(f"ipc://{tmp_path}/d", tmp_path / "log") as second, connect(second.address):
            assert {p.name for p in tmp_path.glob("d*")} == {"d", "d.1"}
        assert not any(path.exists() for path in dead)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_socket_of_somebody_else_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits at the path where the device used to be gets no weights; its owner would be root or this user."""
    impostor = zmq.Context()
    with impostor.socket(zmq.ROUTER) as waiting:
        waiting.bind(f"ipc://{tmp_path}/d")
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        os.chown(tmp_path / "d", 4712, -1)
        with pytest.raises(SecurityError, match="a socket of another user is there"):
            connect(f"ipc://{tmp_path}/d")
        assert not waiting.poll(300)
    impostor.term()


def test_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    security.make_keys(tmp_path, "bob")
    alone = host_keys(tmp_path, "bob", tmp_path / "host")
    (alone / "bob.key_secret").chmod(0o640)
    with pytest.raises(SecurityError, match="others may read; chmod 600 it"):
        connect("tcp://127.0.0.1:1", alone)


def test_log_of_a_device_follows_no_link(tmp_path: Path) -> None:
    """The run's directory may have come from elsewhere (`ditto resume`)."""
    precious, run = tmp_path / "thesis.txt", tmp_path / "run"
    precious.write_text("ten years")
    run.mkdir()
    (run / "device.log").symlink_to(precious)
    with LocalDevice(["--backend", "model"], run_directory=run):
        pass
    assert precious.read_text() == "ten years"
    assert (run / "device.log").is_file()


def test_keys_that_others_may_add_to_are_refused(tmp_path: Path) -> None:
    """Whoever may write there admits whom he likes."""
    security.make_keys(tmp_path / "keys", "bob")
    (tmp_path / "keys" / "hosts").chmod(0o777)
    with (
        pytest.raises(AssertionError, match="others may write to it"),
        running("tcp://127.0.0.1:*", tmp_path / "log", "--keys", str(tmp_path / "keys")),
    ):
        pass


def test_secret_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    written = security.make_keys(tmp_path / "keys", "bob")
    for path in written:
        if path.name.endswith("_secret"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    security.make_keys(tmp_path, "bob")
    device = (tmp_path / "device.key_secret").read_bytes()
    with pytest.raises(SecurityError, match="has keys for host 'bob' already"):
        security.make_keys(tmp_path, "bob")
    security.make_keys(tmp_path, "carol")
    assert (tmp_path / "device.key_secret").read_bytes() == device
    for name in ("device", "../evil", ""):
        with pytest.raises(SecurityError, match="not a plain word"):
            security.make_keys(tmp_path, name)


def test_key_directory_that_does_not_fit_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="0 host keys"):
        connect("tcp://127.0.0.1:1", tmp_path)
    with (
        pytest.raises(AssertionError, match="Make keys with"),
        running("tcp://127.0.0.1:*", tmp_path / "log", "--keys", str(tmp_path)),
    ):
        pass


def test_loopback_admits_whoever_reads_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running("tcp://127.0.0.1:*", tmp_path / "log") as device:
        token = tmp_path / "state" / "ditto-cosim" / "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        with connect(device.address):
            pass
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user's"))
        with pytest.raises(SecurityError, match="the device is another user's"):
            connect(device.address)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        token.chmod(0o644)
        with pytest.raises(SecurityError, match="others may read it"):
            connect(device.address)
