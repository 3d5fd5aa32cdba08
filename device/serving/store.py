# SPDX-License-Identifier: Apache-2.0
"""Constants on the device, by content, shared by the runs of whoever sent them so that weights cross the wire once.

Every tensor is hashed when it has arrived, before anybody may use it: what is held under a digest has that digest, whoever
sent it, and never changes. A host that has not sent a tensor itself is not given it, so a digest alone opens nobody's
weights; two hosts that sent the same bytes share the memory. Tensors that no run uses stay until their memory is needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ditto_cosim.protocol.errors import QuotaError, RequestError, TensorError
from ditto_cosim.protocol.tensors import Buffer, digest_of, hasher


@dataclass
class _Tensor:
    data: memoryview
    owners: set[bytes] = field(default_factory=set)
    """Hosts that have sent it."""
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
    hasher: Any = field(default_factory=hasher)
    hashed: int = 0
    """Bytes from the front that are in the hash already: pieces come in order, and are hashed while the next one comes."""


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
        with self._lock:
            missing = [d for d, nbytes in sizes.items() if not self._take(run, owner, d, nbytes)]
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
        if offset == upload.hashed:
            upload.hasher.update(piece)
            upload.hashed += piece.nbytes
        if upload.received == upload.nbytes:
            self._keep(run, digest, upload)

    def _keep(self, run: str, digest: str, upload: _Upload) -> None:
        """A tensor has arrived: it is what its digest says, or nothing is kept of it."""
        assert upload.data is not None
        whole = upload.hashed == upload.nbytes
        found = upload.hasher.hexdigest() if whole else digest_of(upload.data)
        with self._lock:
            self._uploads.pop((run, digest), None)
            if found != digest:
                raise TensorError(
                    f"constant {digest}: its bytes have digest {found}; send what was announced"
                )
            tensor = self._tensors.setdefault(digest, _Tensor(upload.data.toreadonly()))
            tensor.owners.add(upload.owner)
            tensor.users.add(run)

    def get(self, run: str, digest: str) -> memoryview:
        """A tensor that the run has claimed and that is there."""
        with self._lock:
            tensor = self._tensors.get(digest)
            if tensor is None or run not in tensor.users:
                raise RequestError(
                    f"constant {digest} has not arrived; send every missing constant before Start"
                )
            return tensor.data

    def forget(self, owner: bytes) -> None:
        """The host is gone: whoever comes under its name has sent nothing."""
        with self._lock:
            for tensor in self._tensors.values():
                tensor.owners.discard(owner)

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
        tensor = self._tensors.get(digest)
        if tensor is None or tensor.data.nbytes != nbytes or owner not in tensor.owners:
            return False
        tensor.users.add(run)
        self._tensors.move_to_end(digest)
        return True

    def _held(self) -> int:
        return sum(t.data.nbytes for t in self._tensors.values()) + sum(
            u.nbytes for u in self._uploads.values()
        )

    def _evict(self, wanted_bytes: int) -> None:
        for digest in [d for d, t in self._tensors.items() if not t.users]:
            if self._held() + wanted_bytes <= self._limit_bytes:
                return
            del self._tensors[digest]
