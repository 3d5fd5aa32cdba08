"""Who may talk: addresses that need no keys, key files, and the gate that checks a host's key.

ipc and loopback stay on this machine and need none. Any other address takes CURVE on both sides: the device
knows the public key of every host it admits, the host knows the device's. `ditto keys` writes a directory of
this form:

    device.key_secret          the device's own pair (mode 600)         stays on the device
    device.key                 its public half                          copied to hosts
    hosts/NAME.key             public halves of admitted hosts          stays on the device
    NAME.key_secret            one host's own pair (mode 600)           moved to that host

What this file does not do: encrypt. libzmq's CURVE does.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from ditto_cosim.protocol.errors import SecurityError


def is_local(address: str) -> bool:
    """Whether nothing outside this machine can reach the address."""
    if address.startswith("ipc://"):
        return True
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(address: str, keys: Path | None) -> None:
    """Refuse what is no address, and a reachable one without keys."""
    scheme = address.partition("://")[0]
    if scheme not in ("ipc", "tcp") or "://" not in address:
        raise SecurityError(f"address {address!r}: expected ipc://PATH or tcp://HOST:PORT")
    if keys is None and not is_local(address):
        raise SecurityError(
            f"address {address} can be reached from other machines, which takes keys on both sides. "
            "Make them with `ditto keys DIRECTORY`, then give --keys DIRECTORY."
        )


def make_keys(directory: Path, host: str) -> list[Path]:
    """Write the device's pair if there is none, and a new pair for `host`; returns the files written."""
    if not host.isidentifier() or host == "device":
        raise SecurityError(f"host name {host!r} is not a plain word that could name a key file")
    directory.mkdir(parents=True, exist_ok=True)
    os.chmod(directory, 0o700)
    hosts = directory / "hosts"
    hosts.mkdir(exist_ok=True)
    written: list[Path] = []
    if not (directory / "device.key_secret").exists():
        written += _make_pair(directory, "device")
    if (directory / f"{host}.key_secret").exists() or (hosts / f"{host}.key").exists():
        raise SecurityError(
            f"{directory} has keys for host {host!r} already; remove them first to replace them"
        )
    public, secret = _make_pair(directory, host)
    admitted = hosts / public.name
    public.rename(admitted)
    return [*written, secret, admitted]


def _make_pair(directory: Path, name: str) -> tuple[Path, Path]:
    old = os.umask(0o077)
    try:
        public, secret = zmq.auth.create_certificates(directory, name)
    finally:
        os.umask(old)
    os.chmod(secret, 0o600)
    return Path(public), Path(secret)


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise SecurityError(f"key file {path}: {error}. Make keys with `ditto keys DIRECTORY`.") from None


class Gate:
    """Admits hosts whose public key lies in `KEYS/hosts`; everybody else is refused before a message is
    read."""

    def __init__(self, context: zmq.Context[Any], socket: zmq.Socket[Any], keys: Path) -> None:
        public, secret = _load(keys / "device.key_secret")
        if secret is None:
            raise SecurityError(f"{keys / 'device.key_secret'} holds no secret key")
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(keys / "hosts"))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVER, 1)

    def close(self) -> None:
        self._authenticator.stop()


def use_keys(socket: zmq.Socket[Any], keys: Path) -> None:
    """Give a host's socket its own pair (the one `*.key_secret` besides the device's) and the device's public
    key."""
    own = [path for path in sorted(keys.glob("*.key_secret")) if path.name != "device.key_secret"]
    if len(own) != 1:
        raise SecurityError(
            f"{keys} has {len(own)} host keys (*.key_secret), expected one, this host's. Move the others."
        )
    public, secret = _load(own[0])
    if secret is None:
        raise SecurityError(f"{own[0]} holds no secret key")
    server, _ = _load(keys / "device.key")
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
