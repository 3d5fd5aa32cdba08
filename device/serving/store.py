"""Constants on the device, by content, shared by all runs so that weights cross the wire once.

A tensor that one host sent is given to another host's run only after the device has hashed it itself. Tensors
that no run uses stay until their memory is needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ditto_cosim.protocol.errors import QuotaError, RequestError, TensorError
from ditto_cosim.protocol.tensors import Buffer, digest_of


@dataclass
class _Tensor:
    data: memoryview
    owners: set[bytes]
    """The host that sent it: it trusts its own bytes."""
    verified: bool = False
    users: set[str] = field(default_factory=set)
    """Runs that hold it."""


@dataclass
class _Upload:
    """A constant on its way."""

    nbytes: int
    owner: bytes
    data: memoryview | None = None
    received: int = 0
    offsets: set[int] = field(default_factory=set)


class Store:
    """Thread-safe; `claim`, `put`, `get` and `release` are called by runs' workers."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tensors: OrderedDict[str, _Tensor] = OrderedDict()
        self._uploads: dict[tuple[str, str], _Upload] = {}
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Tensors and announced uploads."""
        with self._lock:
            return self._held()

    def claim(self, run: str, owner: bytes, sizes: Mapping[str, int]) -> list[str]:
        """Reserve these tensors for a run; returns the digests of those it must send."""
        missing = []
        for digest, nbytes in sizes.items():
            if not self._take(run, owner, digest, nbytes):
                missing.append(digest)
        with self._lock:
            wanted = sum(sizes[digest] for digest in missing)
            self._evict(wanted)
            if (held := self._held()) + wanted > self._limit_bytes:
                raise QuotaError(
                    f"run {run}: its constants need {wanted} more bytes, {held} of the device's "
                    f"{self._limit_bytes} "
                    "are in use. Close other runs or raise the device's --store-bytes."
                )
            for digest in missing:
                self._uploads[run, digest] = _Upload(sizes[digest], owner)
        return missing

    def put(self, run: str, digest: str, offset: int, frame: Buffer) -> None:
        """One piece of a claimed tensor. A tensor that comes in one piece is kept where the socket put it."""
        piece = memoryview(frame).cast("B") if memoryview(frame).nbytes else memoryview(b"")
        with self._lock:
            upload = self._uploads.get((run, digest))
            if upload is None:
                raise RequestError(f"run {run}: constant {digest} was not asked for, or has arrived already")
            if offset + piece.nbytes > upload.nbytes or (not piece.nbytes and upload.nbytes):
                raise TensorError(
                    f"constant {digest}: {piece.nbytes} bytes at {offset} do not fit into its {upload.nbytes}"
                )
            if offset in upload.offsets:
                raise TensorError(f"constant {digest}: the piece at {offset} came twice")
            upload.offsets.add(offset)
            if piece.nbytes == upload.nbytes:
                upload.data = piece
            else:
                if upload.data is None:
                    upload.data = np.empty(upload.nbytes, np.uint8).data
                upload.data[offset : offset + piece.nbytes] = piece
            upload.received += piece.nbytes
            if upload.received == upload.nbytes:
                del self._uploads[run, digest]
                known = self._tensors.setdefault(digest, _Tensor(upload.data, set()))
                if not known.verified:
                    known.data, known.owners = upload.data, {upload.owner}
                known.users.add(run)

    def get(self, digest: str) -> memoryview:
        with self._lock:
            if digest not in self._tensors:
                raise RequestError(
                    f"constant {digest} has not arrived; send every missing constant before Start"
                )
            return self._tensors[digest].data

    def release(self, run: str) -> None:
        """The run holds nothing any more."""
        with self._lock:
            for tensor in self._tensors.values():
                tensor.users.discard(run)
            for key in [k for k in self._uploads if k[0] == run]:
                del self._uploads[key]

    def clear(self) -> None:
        """Drop whatever no run uses."""
        with self._lock:
            self._evict(self._limit_bytes + 1)

    def _take(self, run: str, owner: bytes, digest: str, nbytes: int) -> bool:
        with self._lock:
            tensor = self._tensors.get(digest)
            if tensor is None or tensor.data.nbytes != nbytes:
                return False
            tensor.users.add(run)
            self._tensors.move_to_end(digest)
            if tensor.verified or owner in tensor.owners:
                return True
            data = tensor.data
        genuine = digest_of(data) == digest
        with self._lock:
            if genuine:
                tensor.verified = True
            else:
                tensor.users.discard(run)
            return genuine

    def _held(self) -> int:
        return sum(t.data.nbytes for t in self._tensors.values()) + sum(
            u.nbytes for u in self._uploads.values()
        )

    def _evict(self, wanted_bytes: int) -> None:
        for digest in [d for d, t in self._tensors.items() if not t.users]:
            if self._held() + wanted_bytes <= self._limit_bytes:
                return
            del self._tensors[digest]
