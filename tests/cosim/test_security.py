"""Who may talk: local addresses without keys, others only with keys that the device admits."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq

from ditto_cosim.host.wire.client import connect
from ditto_cosim.protocol import security
from ditto_cosim.protocol.errors import DeviceLostError, RequestError, SecurityError
from ditto_cosim.protocol.messages import RunSpec
from support.wire_harness import run_steps, serving
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
        with pytest.raises(SecurityError, match="takes keys on both sides"), serving(address):
            pass
        with pytest.raises(SecurityError, match="takes keys on both sides"):
            connect(address)


@pytest.mark.parametrize("address", ["", "127.0.0.1:5", "udp://127.0.0.1:5", "tcp:/x", "inproc://x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SecurityError, match=r"expected ipc://PATH or tcp://HOST:PORT"):
        connect(address)


def host_keys(keys: Path, name: str, to: Path) -> Path:
    """What an administrator copies to a host's machine."""
    to.mkdir()
    (to / "device.key").write_bytes((keys / "device.key").read_bytes())
    (to / f"{name}.key_secret").write_bytes((keys / f"{name}.key_secret").read_bytes())
    return to


def test_admitted_host_runs_and_strangers_do_not(tmp_path: Path) -> None:
    keys, other = tmp_path / "keys", tmp_path / "other"
    written = security.make_keys(keys, "alice")
    assert {p.name for p in written} == {"device.key", "device.key_secret", "alice.key", "alice.key_secret"}
    security.make_keys(other, "alice")
    alice = host_keys(keys, "alice", tmp_path / "alice")
    stranger = host_keys(other, "alice", tmp_path / "stranger")
    (stranger / "device.key").write_bytes((keys / "device.key").read_bytes())
    with serving("tcp://0.0.0.0:0", keys=keys) as bound:
        address = bound.replace("0.0.0.0", "127.0.0.1")
        with connect(address, alice) as device, device.open_run(*chain(2), RunSpec(chip="tiny")) as run:
            run_steps(run, 1)
            with pytest.raises(RequestError, match="is a path; a device on another machine"):
                device.open_run(*chain(2), RunSpec(chip="/etc/passwd"))
        for with_keys in (stranger, None):
            with pytest.raises(DeviceLostError, match="no device answers"):
                connect(address, with_keys, timeout_s=1.0)
        with connect(address, alice):
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
    with pytest.raises(SecurityError, match="Make keys with"), serving("tcp://127.0.0.1:0", keys=tmp_path):
        pass
