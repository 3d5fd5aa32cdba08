"""Wakes a thread that waits for its sockets, from any other thread; what both ends of the wire use beside
them."""

from __future__ import annotations

import os
import threading


class Waker:
    """An event that a poller can wait for. The waiting thread calls `clear` before it looks for work."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._set = False
        self._open = True

    def set(self) -> None:
        if self._set:
            return
        with self._lock:
            if self._open and not self._set:
                self._set = True
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with self._lock:
            if self._set:
                self._set = False
                os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            if self._open:
                self._open = False
                os.close(self.fd)
