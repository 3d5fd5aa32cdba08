# SPDX-License-Identifier: Apache-2.0
"""The byte stream to a board: frames out, answers in, everything lost or damaged on the way sent again.

Frames and addresses: rtl/board/README.md. At most a window of requests waits for answers; answers come in order. A
request whose answer does not come is sent again with all behind it; the board carries out each once. A board that was
reset answers everything as a stray: `BoardResetError`, and whoever computed starts his product anew.
What this file does not do: know tiles or layers (`board.py`), choose a port (`board.py`).
"""

from __future__ import annotations

import secrets
import struct
import time
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import serial

from ditto_cosim.protocol.errors import BackendError, WatchdogError

FLAG, ESCAPE, FLIP = 0x7E, 0x7D, 0x20
HELLO, WRITE, READ = 0x01, 0x02, 0x03
WELCOME, DONE, DATA, STRAY = 0x81, 0x82, 0x83, 0x8F
PAYLOAD_BYTES = 1024
HELLO_TIMEOUT_S = 2.0
ANSWER_TIMEOUT_S = 0.25
"""Beside the time that the bytes under way need at the line's rate."""
SILENCE_S = 5.0
"""So long without one whole frame, and the board is given up."""


class BoardResetError(BackendError):
    """The board lost its session: it was reset or loaded anew, and what it held is gone."""


def encode(content: bytes) -> bytes:
    """A frame as it goes over the line."""
    content += struct.pack("<I", zlib.crc32(content))
    stuffed = content.replace(b"\x7d", b"\x7d\x5d").replace(b"\x7e", b"\x7d\x5e")
    return b"\x7e" + stuffed + b"\x7e"


def decode(stuffed: bytes) -> bytes | None:
    """What a frame held, or None if it came damaged."""
    plain = stuffed.replace(b"\x7d\x5e", b"\x7e").replace(b"\x7d\x5d", b"\x7d")
    if len(plain) < 6 or struct.unpack("<I", plain[-4:])[0] != zlib.crc32(plain[:-4]):
        return None
    return plain[:-4]


@dataclass(slots=True)
class _Request:
    seq: int
    frame: bytes
    answer: int
    """The kind of its answer."""
    sink: bytearray | None
    """Where bytes read go."""
    count: int


class BoardLink:
    """An open line with a session on it. Not for two threads."""

    def __init__(self, port: str, baud: int) -> None:
        self.port, self.baud = port, baud
        self.sent_bytes = self.received_bytes = self.resends = 0
        self.window = 1
        self._seq = 0
        self._waiting: deque[_Request] = deque()
        self._tail = b""
        try:
            self._line: Any = serial.serial_for_url(port, baudrate=baud, timeout=0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise BackendError(
                f"board: port {port} cannot be opened ({error}); another program may hold it, or it is gone. "
                "`ditto board list` shows the ports there are."
            ) from None
        try:
            self.hello()
        except BackendError:
            self.close()
            raise

    def hello(self) -> None:
        """Begins a session; what the line still holds of an earlier one is thrown away."""
        self._waiting.clear()
        self._tail, nonce = b"", secrets.token_bytes(4)
        self._seq = nonce[0]
        welcome = bytes([WELCOME, self._seq]) + nonce
        deadline = time.monotonic() + HELLO_TIMEOUT_S
        again_at = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() >= again_at:
                self._put(encode(bytes([HELLO, self._seq]) + nonce))
                again_at = time.monotonic() + ANSWER_TIMEOUT_S
            if welcome in self._frames():
                self._seq = (self._seq + 1) % 256
                return
        raise BackendError(
            f"board: nothing on {self.port} answers at {self.baud} baud within {HELLO_TIMEOUT_S:g} s; is it powered, is "
            "its bitstream loaded (`ditto board load`), is the rate right?"
        )

    def write(self, address: int, data: bytes) -> None:
        """Puts bytes at an address; returns before they are there."""
        for at in range(0, len(data), PAYLOAD_BYTES):
            body = struct.pack("<I", address + at) + data[at : at + PAYLOAD_BYTES]
            self._request(WRITE, body, DONE, None, 0)

    def read(self, address: int, words: int, word_bytes: int = 1) -> bytearray:
        """Bytes at an address: the array is filled when `finish` returns. Three-byte words lie four apart."""
        sink, stride = bytearray(), 4 if word_bytes == 3 else word_bytes
        most = PAYLOAD_BYTES // word_bytes
        for at in range(0, words, most):
            count = min(most, words - at) * word_bytes
            self._request(READ, struct.pack("<IH", address + at * stride, count), DATA, sink, count)
        return sink

    def finish(self) -> None:
        """Returns when every request has been answered."""
        while self._waiting:
            self._answer()

    def close(self) -> None:
        self._line.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _request(self, kind: int, body: bytes, answer: int, sink: bytearray | None, count: int) -> None:
        while len(self._waiting) >= self.window:
            self._answer()
        frame = encode(bytes([kind, self._seq]) + body)
        self._waiting.append(_Request(self._seq, frame, answer, sink, count))
        self._seq = (self._seq + 1) % 256
        self._put(frame)

    def _answer(self) -> None:
        """Takes answers until the oldest request has its own."""
        silent_since = time.monotonic()
        under_way = sum(len(r.frame) + r.count for r in self._waiting)
        patience_s = ANSWER_TIMEOUT_S + 10 * under_way / self.baud
        again_at = silent_since + patience_s
        oldest = self._waiting[0]
        while self._waiting and self._waiting[0] is oldest:
            overtaken = False
            for frame in self._frames():
                silent_since = time.monotonic()
                overtaken |= not self._take(frame)
            now = time.monotonic()
            if self._waiting and self._waiting[0] is oldest and (overtaken or now >= again_at):
                for request in self._waiting:
                    self._put(request.frame)
                self.resends += len(self._waiting)
                again_at = now + patience_s
            if now - silent_since > SILENCE_S:
                raise WatchdogError(
                    f"board: {self.port} went silent: no whole frame in {SILENCE_S:g} s, {len(self._waiting)} requests "
                    f"without an answer, sent {self.resends} times again. Check cable, power and rate; the run can be resumed.",
                    state=f"oldest request: sequence {oldest.seq}, {len(oldest.frame)} bytes",
                )

    def _take(self, frame: bytes) -> bool:
        """Gives an answer to the oldest request; False if it is for a later one, whose predecessor's was lost."""
        kind, seq = frame[0], frame[1]
        if kind == STRAY:
            raise BoardResetError(f"board: {self.port} was reset in mid-session")
        if not self._waiting:
            return True
        oldest = self._waiting[0]
        if seq != oldest.seq:
            return all(seq != later.seq for later in self._waiting)
        if kind != oldest.answer or len(frame) - 2 != oldest.count:
            return True
        if oldest.sink is not None:
            oldest.sink += frame[2:]
        self._waiting.popleft()
        return True

    # --- bytes ------------------------------------------------------------------------------------------------------

    def _put(self, frame: bytes) -> None:
        try:
            self._line.write(frame)
        except (serial.SerialException, OSError) as error:
            raise BackendError(f"board: {self.port} is gone ({error}); was it unplugged?") from None
        self.sent_bytes += len(frame)

    def _frames(self) -> list[bytes]:
        """The whole frames that have come; waits a moment if none has."""
        try:
            self._line.timeout = 0.02
            got = self._line.read(1)
            got += self._line.read(self._line.in_waiting)
        except (serial.SerialException, OSError) as error:
            raise BackendError(f"board: {self.port} is gone ({error}); was it unplugged?") from None
        self.received_bytes += len(got)
        *frames, self._tail = (self._tail + got).split(b"\x7e")
        if len(self._tail) > 4 * PAYLOAD_BYTES:  # noise without a flag
            self._tail = b""
        return [content for frame in frames if frame and (content := decode(frame)) is not None]
