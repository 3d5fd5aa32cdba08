# SPDX-License-Identifier: Apache-2.0
"""What a hostile host does to a device, and how long another host waits for its Pongs meanwhile.

    python -m ditto_cosim.bench.attacks ATTACK ADDRESS SECONDS

One process attacks, so that it shares no interpreter with who measures. `ditto bench wire` reports the worst; the tests hold
it below a second. What this file does not do: attack anything that it did not start.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import msgpack
import zmq

from ditto_cosim.protocol import codec, security
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.version import PROTOCOL_VERSION, package_version, parameters_digest

MIB = 1 << 20


class Host:
    """A bare socket that speaks the protocol, as well or as badly as it is told."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IDENTITY, b"H" + secrets.token_bytes(16))
        self.socket.setsockopt(zmq.SNDHWM, 1000)
        self.socket.connect(address)
        self._address = address

    def hello(self) -> codec.Frames:
        return codec.encode(
            m.Hello(
                protocol=PROTOCOL_VERSION,
                package=package_version(),
                parameters=parameters_digest(),
                stream_bytes=1 << 62,
                token=security.local_token() if security.is_loopback(self._address) else "",
            )
        )

    def greet(self, timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.socket.send_multipart(self.hello())
            while self.socket.poll(500):
                message = codec.decode_device(self.socket.recv_multipart(), m.Limits())
                if isinstance(message, m.Moved) and message.address != self._address:
                    self.socket.connect(message.address)
                    self.socket.disconnect(self._address)
                    self._address = message.address
                    break
                if isinstance(message, m.Welcome):
                    return
        raise TimeoutError("no Welcome")

    def send(self, frames: codec.Frames) -> None:
        """Without waiting; reads whatever came."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        with contextlib.suppress(zmq.Again):
            while True:
                self.socket.recv_multipart(zmq.NOBLOCK)

    def pong_s(self, token: int, timeout_s: float) -> float:
        """How long a Ping takes to be answered."""
        began = time.monotonic()
        self.socket.send_multipart(codec.encode(m.Ping(token=token)))
        while self.socket.poll(max(0, int(1000 * (began + timeout_s - time.monotonic())))):
            message = codec.decode_device(self.socket.recv_multipart(), m.Limits())
            if isinstance(message, m.Pong) and message.token == token:
                return time.monotonic() - began
        return math.inf

    def close(self) -> None:
        self._context.destroy(0)


def _hellos(host: Host) -> Iterator[Callable[[], None]]:
    """Names without end."""
    while True:
        stranger = Host(host._address)
        yield lambda stranger=stranger: stranger.send(stranger.hello())  # type: ignore[misc]  # its default's type
        stranger.close()


def _rubbish(host: Host) -> Iterator[Callable[[], None]]:
    """Headers of a stranger: deep, wide, long and none at all."""
    wide = msgpack.packb({"type": "Hello", "x": list(range(400_000))})
    deep = b"\x81\xa1a" * 100_000 + b"\x01"
    while True:
        for header in (b"", os.urandom(64), deep, wide, b"\xdd\xff\xff\xff\xff"):
            yield lambda header=header: host.send(codec.sealed(header, []))  # type: ignore[misc]


def _headers(host: Host) -> Iterator[Callable[[], None]]:
    """Headers of a host that has greeted, as long as they may be."""
    host.greet()
    wide = msgpack.packb(
        {"type": "PutTensors", "run": "r", "seq": 0, "pieces": [{"digest": "0" * 32}] * 70_000}
    )
    while True:
        yield lambda: host.send(codec.sealed(wide, []))


def _programs(host: Host) -> Iterator[Callable[[], None]]:
    """Programs of a hundred thousand values that end in a lie."""
    host.greet()
    values = [[[1, 1], "f32"]] * 200_000
    program = msgpack.packb(
        {"values": values, "inputs": {}, "static_inputs": [], "constants": {}, "commands": []}
    )
    seq = 0
    while True:
        seq += 1
        request = codec.encode(m.OpenRun(run=f"r{seq}", seq=0, spec=m.RunSpec(), constants={}), [program])
        yield lambda request=request: host.send(request)  # type: ignore[misc]


def _requests(host: Host) -> Iterator[Callable[[], None]]:
    """More requests than the window, of a run that there is not, and asked for again and again."""
    host.greet()
    seq = 0
    while True:
        seq += 1
        for message in (m.Start(run="r", seq=seq), m.Query(run="r", seq=seq, received=0), m.Ping(token=seq)):
            yield lambda message=message: host.send(codec.encode(message))  # type: ignore[misc]


def _frames(host: Host) -> Iterator[Callable[[], None]]:
    """Bytes by the hundred million."""
    host.greet()
    payload = bytes(64 * MIB)
    put = codec.encode(m.PutTensors(run="r", seq=1, pieces=[m.Piece(digest="0" * 32)]), [payload])
    while True:
        yield lambda: host.send(put)


ATTACKS: dict[str, Callable[[Host], Iterator[Callable[[], None]]]] = {
    "hellos": _hellos,
    "rubbish": _rubbish,
    "headers": _headers,
    "programs": _programs,
    "requests": _requests,
    "frames": _frames,
}


def pongs_under(attack: str, address: str, seconds: float, timeout_s: float = 30.0) -> list[float]:
    """Seconds that the Pongs of a well-behaved host took while another attacked."""
    host = Host(address)
    attacker: subprocess.Popen[str] | None = None
    try:
        host.greet()
        command = [sys.executable, "-m", "ditto_cosim.bench.attacks", attack, address, str(seconds)]
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert attacker.stdout is not None
        attacker.stdout.readline()  # it begins
        took: list[float] = []
        while attacker.poll() is None or not took:
            took.append(host.pong_s(len(took), timeout_s))
            time.sleep(0.005)
        return took
    finally:
        if attacker is not None:
            attacker.kill()
            attacker.wait()
        host.close()


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def main(attack: str, address: str, seconds: str) -> None:
    host = Host(address)
    print("begins", flush=True)
    end = time.monotonic() + float(seconds)
    for act in ATTACKS[attack](host):
        if time.monotonic() > end:
            break
        act()
    host.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
