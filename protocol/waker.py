# SPDX-License-Identifier: Apache-2.0
"""Wakes a thread that waits for its sockets, from any other thread."""

from __future__ import annotations

import os
import threading


class Waker:
    """An event a poller can wait for at `fd`. The waiting thread calls `clear` before it looks for work."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        self._lock = threading.RLock()  # a signal handler may call `set` in the middle of `clear`
        self._set = False
        self._open = True

    def set(self) -> None:
        if self._set:
            return
        with self._lock:
            if self._open and not self._set:
                self._set = True
                os.write(self._write_fd, b"\0")

    def clear(self) -> None:
        if not self._set:
            return
        with self._lock:
            if self._set:
                self._set = False
                os.read(self.fd, 1)

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.fd)
                os.close(self._write_fd)
