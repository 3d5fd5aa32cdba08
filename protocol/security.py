# SPDX-License-Identifier: Apache-2.0
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

import contextlib
import ipaddress
import os
import re
import secrets
import shutil
import socket as os_socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from ditto_cosim.protocol.errors import SecurityError

IPC_PATH_BYTES = 96
"""Of the 107 that a socket's path may have; workers' sockets stand beside it and are a little longer."""


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


def is_loopback(address: str) -> bool:
    """Whether every user of this machine can reach the address, and nobody else."""
    return is_local(address) and not address.startswith("ipc://")


def check_address(address: str, keys: Path | None) -> None:
    """Refuse what is no address, and a reachable one without keys."""
    scheme, _, rest = address.partition("://")
    port = rest.rpartition(":")[2]
    fits = {
        # A name that begins with @ is no file, so nobody owns it: any user could bind it, and any user connect.
        "ipc": 0 < len(rest.encode()) <= IPC_PATH_BYTES and rest != "*" and not rest.startswith("@"),
        "tcp": bool(re.fullmatch(r"\S+:(\d+|\*)", rest)) and (port == "*" or int(port) < 65536),
    }
    if not fits.get(scheme, False) or not address.isprintable() or re.search(r"[,;\s]", address):
        raise SecurityError(
            f"address {address!r}: expected ipc://PATH or tcp://HOST:PORT "
            f"(a path of at most {IPC_PATH_BYTES} bytes, a port below 65536)"
        )
    if keys is None and not is_local(address):
        raise SecurityError(
            f"address {address} can be reached from other machines, which takes keys on both sides. "
            "Make them with `ditto keys DIRECTORY`, then give --keys DIRECTORY."
        )


def check_owner(address: str) -> None:
    """Refuse an ipc address where the socket is another user's; root's is taken, and one that is yet to be made."""
    path = Path(address.removeprefix("ipc://"))
    with contextlib.suppress(OSError):
        if address.startswith("ipc://") and path.stat().st_uid not in (0, os.geteuid()):
            raise SecurityError(
                f"cannot connect to {address}: a socket of another user is there. "
                "A device on ipc serves the user that started it; between users it takes tcp and keys."
            )


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Whatever is made meanwhile, its owner alone may use."""
    old = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(old)


def private_directory(prefix: str) -> Path:
    """A new temporary directory that its owner alone may enter. Those of this prefix whose processes were killed are removed."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}-*-*"):
        pid = path.name.removeprefix(f"{prefix}-").partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdigit() and not Path(f"/proc/{pid}").exists() and path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path)  # refuses a link
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-{os.getpid()}-"))


def local_token(make: bool = False) -> str:
    """What a device on loopback without keys asks of its hosts: that they can read a file of its user's. Empty if there is none
    and `make` does not make one."""
    path = (
        Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ditto-cosim" / "token"
    )
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with private_files():
            unfinished = path.with_name(f"token-{os.getpid()}")
            unfinished.write_text(secrets.token_hex(32))
            unfinished.replace(path)
    try:
        found = path.stat()
        text = path.read_text().strip()
    except OSError as error:
        if make:
            raise SecurityError(
                f"{path}: cannot be made ({error}); give --keys, or listen on ipc://"
            ) from None
        return ""
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SecurityError(f"{path} is another user's, or others may read it; remove it")
    return text


def claim_path(path: Path) -> None:
    """Make room for a socket: remove a dead one of this user's own, refuse everything else that is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SecurityError(f"cannot listen on ipc://{path}: {error}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SecurityError(
            f"cannot listen on ipc://{path}: a file is there, and it is no socket. Choose another path."
        )
    if found.st_uid != os.geteuid():
        raise SecurityError(
            f"cannot listen on ipc://{path}: a socket of another user is there. Choose another path."
        )
    if _answers(path):
        raise SecurityError(
            f"cannot listen on ipc://{path}: something listens there already. Is another device there?"
        )
    path.unlink(missing_ok=True)


def sweep_beside(path: Path) -> None:
    """Remove the dead sockets of workers whose device at `path` was killed."""
    for socket in path.parent.glob(path.name + ".*"):
        if re.fullmatch(re.escape(path.name) + r"\.\d+", socket.name):
            with contextlib.suppress(SecurityError, OSError):
                claim_path(socket)


def _answers(path: Path) -> bool:
    with os_socket.socket(os_socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def make_keys(directory: Path, host: str) -> list[Path]:
    """Write the device's pair if there is none, and a new pair for `host`; returns the files written."""
    if not host.isidentifier() or host == "device":
        raise SecurityError(f"host name {host!r} is not a plain word that could name a key file")
    directory.mkdir(parents=True, exist_ok=True)
    os.chmod(directory, 0o700)
    hosts = directory / "hosts"
    hosts.mkdir(mode=0o700, exist_ok=True)
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
    with private_files():
        public, secret = zmq.auth.create_certificates(directory, name)
    os.chmod(secret, 0o600)
    return Path(public), Path(secret)


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
        open_to = stat.S_IMODE(path.stat().st_mode) & 0o077
    except (OSError, ValueError) as error:
        raise SecurityError(f"key file {path}: {error}. Make keys with `ditto keys DIRECTORY`.") from None
    if secret is not None and open_to:
        raise SecurityError(f"key file {path} holds a secret that others may read; chmod 600 it")
    return public, secret


def _check_folder(folder: Path) -> None:
    """Whoever may write there admits whom he likes."""
    with contextlib.suppress(FileNotFoundError):
        found = folder.stat()
        if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & 0o002:
            raise SecurityError(
                f"{folder} belongs to another user, or others may write to it, and the keys there are admitted; "
                "chmod 700 it"
            )


class Gate:
    """Admits hosts whose public key lies in `KEYS/hosts`; everybody else is refused before a message is
    read. Keys that are added or removed count from the next `refresh`."""

    def __init__(self, context: zmq.Context[Any], socket: zmq.Socket[Any], keys: Path) -> None:
        public, secret = _load(keys / "device.key_secret")
        if secret is None:
            raise SecurityError(f"{keys / 'device.key_secret'} holds no secret key")
        self._hosts = keys / "hosts"
        for folder in (keys, self._hosts):
            _check_folder(folder)
        self._seen = self._state()
        self._admitted = self._keys()
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve(domain="*", location=str(self._hosts))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVER, 1)

    def refresh(self) -> bool:
        """Whether keys came or went since the last call."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen, self._admitted = state, self._keys()
        self._authenticator.configure_curve(domain="*", location=str(self._hosts))
        return True

    def admits(self, key: str) -> bool:
        return key in self._admitted

    def close(self) -> None:
        self._authenticator.stop()

    def _state(self) -> list[tuple[str, int]]:
        with contextlib.suppress(OSError):
            return sorted((p.name, p.stat().st_mtime_ns) for p in self._hosts.glob("*.key"))
        return []

    def _keys(self) -> frozenset[str]:
        found = set()
        for path in self._hosts.glob("*.key"):
            with contextlib.suppress(SecurityError):
                found.add(_load(path)[0].decode())
        return frozenset(found)


def use_keys(socket: zmq.Socket[Any], keys: Path) -> None:
    """Give a host's socket its own pair (the one `*.key_secret` besides the device's) and the device's public key."""
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
