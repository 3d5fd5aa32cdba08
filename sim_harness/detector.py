# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's sparsity detector in RTL: whole layers written back through it, tags and lists out, and its regression.

    detector = DetectorBlock()
    tags, zeros = detector.write_back(codes, theta_count=235, layer=3)       codes [channels, pixels], 0…15
    dense, sparse = detector.lists(3, channels)

What this file does not do: say what a threshold is, or how long anything takes (the reference does: `DetectorReference`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .block import Block
from .sources import array_sources

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DETECTOR_SET = "detector"
DETECTOR_TOP = "sparsity_detector"
_TAIL = 4
"""Cycles run on behind the last word: the last tag is out, and the detector idle."""


@dataclass(frozen=True, slots=True)
class DetectorGeometry:
    """Parameters of `sparsity_detector`."""

    width: int = 16
    """Codes a word."""
    channels: int = 512
    layers: int = 64
    count_width: int = 24

    @property
    def parameters(self) -> dict[str, int]:
        return {
            "Width": self.width,
            "Channels": self.channels,
            "Layers": self.layers,
            "CountWidth": self.count_width,
        }


class DetectorReference(Protocol):
    """What the detector is held to."""

    def theta_count(self, theta: float, pixels: int) -> int: ...

    def tag_cycles(self, channels: int, pixels: int, width: int) -> I64:
        """[channels]: the cycle in which each tag is out; 0 is the first after the start."""

    def scan_cycles(self, channels: int) -> int:
        """Cycles from the request for a list to its last channel."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """What a layer's write-back gave."""

    sparse: Bools
    """[channels]"""
    zeros: I64
    """[channels]"""
    cycles: I64
    """[channels]: the cycle in which each tag was out."""
    waited: int
    """Cycles in which a code was offered and not taken."""
    idle: int
    """The first cycle in which the detector was not busy."""


class DetectorBlock:
    """One Verilated detector."""

    def __init__(
        self,
        geometry: DetectorGeometry | None = None,
        own_dir: Path | None = None,
        plusargs: str = "",
        before: tuple[Path, ...] = (),
        coverage: bool = False,
    ) -> None:
        """`before`: files that the design needs beside its own."""
        self.geometry = geometry or DetectorGeometry()
        files = [*before, *(path for path in array_sources(DETECTOR_TOP, own_dir) if path.suffix == ".sv")]
        self._block = Block(
            files, DETECTOR_TOP, self.geometry.parameters, plusargs=plusargs, coverage=coverage
        )
        self.reset()

    def reset(self) -> None:
        self._block.reset()

    def write_back(
        self,
        codes: U8,
        *,
        theta_count: int,
        layer: int = 0,
        update: bool = True,
        late: Bools | None = None,
        insists: bool = False,
    ) -> Tagged:
        """Streams [channels, pixels] codes; `late` says of every cycle whether nothing is offered in it. Who `insists` offers a
        word of zeros before the start and after the end, when it must not be taken."""
        channels, pixels = codes.shape
        width = self.geometry.width
        words = -(-pixels // width)
        # What lies behind a channel's end is not to be looked at: it is zeros, which would count.
        padded = np.zeros((channels, words * width), np.uint8)
        padded[:, :pixels] = codes
        stream = padded.reshape(channels * words, width)
        free = np.ones(len(stream), bool)
        if late is not None:
            free = np.concatenate([~late, free])
        at = np.flatnonzero(free)[: len(stream)]
        count = int(at[-1]) + 1 + _TAIL
        valid = np.zeros(count, np.uint8)
        valid[at] = 1
        values = np.full((count, width), 0, np.uint8)
        values[at] = stream
        last = int(at[-1])
        if insists:
            valid[last + 1 :] = 1
        start = {
            "start_i": 1, "layer_i": layer, "channels_i": channels, "pixels_i": pixels, "theta_count_i": theta_count,
            "update_i": int(update),
        }  # fmt: skip
        self._block.run(
            {**{n: np.array([v]) for n, v in start.items()}, "code_valid_i": np.array([int(insists)])}, []
        )
        names = ["tag_valid_o", "tag_channel_o", "tag_sparse_o", "tag_zeros_o", "code_ready_o", "busy_o"]
        stopped = {"start_i": np.zeros(count, np.uint8), "update_i": np.full(count, 1 - update, np.uint8)}
        out = self._block.run({**stopped, "code_valid_i": valid, "code_i": values}, names)
        told = np.flatnonzero(out["tag_valid_o"])
        sparse, zeros = np.zeros(channels, bool), np.full(channels, -1, np.int64)
        cycles = np.full(channels, -1, np.int64)
        for cycle in told:
            channel = int(out["tag_channel_o"][cycle])
            if channel >= channels or cycles[channel] >= 0:
                continue  # told twice, or of no channel: `cycles` shows it
            sparse[channel] = out["tag_sparse_o"][cycle]
            zeros[channel] = out["tag_zeros_o"][cycle]
            cycles[channel] = cycle
        if len(told) != channels:
            cycles[:] = -1
        waited = int((valid & (1 - out["code_ready_o"]))[: last + 1].sum())
        idle = np.flatnonzero(out["busy_o"] == 0)
        return Tagged(sparse, zeros, cycles, waited, int(idle[0]) if len(idle) else -1)

    def cut(self, rng: np.random.Generator) -> bool:
        """Resets it in the middle of a write-back and of a list; whether one cycle of that silences it."""
        cycles = int(rng.integers(2, 12))
        ones = np.ones(cycles, np.uint8)
        first = np.zeros(cycles, np.uint8)
        first[0] = 1
        self._block.run(
            {
                "start_i": first, "scan_i": first, "channels_i": 16 * ones, "scan_channels_i": 16 * ones, "pixels_i": 6 * ones,
                "code_valid_i": ones, "list_ready_i": rng.integers(0, 2, cycles),
                "code_i": rng.integers(0, 2, (cycles, self.geometry.width)),
                "update_i": np.zeros(cycles, np.uint8),  # what is cut leaves no tags behind
            },
            [],
        )  # fmt: skip
        names = ["busy_o", "code_ready_o", "tag_valid_o", "list_valid_o"]
        level = np.array([0, 1, 1, 1, 1], np.uint8)
        idle = {name: np.zeros(5, np.uint8) for name in ("start_i", "scan_i", "code_valid_i", "list_ready_i")}
        out = self._block.run({**idle, "rst_ni": level}, names)
        return not any(out[name][1:].any() for name in names)

    def lists(
        self, layer: int, channels: int, ready: U8 | None = None
    ) -> tuple[list[int], list[int], list[int]]:
        """(dense channels, sparse channels, the cycle of each), as they come; the request is made in cycle 0."""
        count = (channels + _TAIL) if ready is None else len(ready)
        taken = np.ones(count, np.uint8) if ready is None else ready
        request = np.zeros(count, np.uint8)
        request[:channels] = 1  # heard once: a list is being made in all but the first of these cycles
        inputs = {
            "scan_i": request,
            "scan_layer_i": np.full(count, layer),
            "scan_channels_i": np.full(count, channels),
            "list_ready_i": taken,
            "code_valid_i": np.zeros(count, np.uint8),
        }
        out = self._block.run(inputs, ["list_valid_o", "list_channel_o", "list_sparse_o", "list_last_o"])
        given = np.flatnonzero(out["list_valid_o"] & taken)
        order, sparse = out["list_channel_o"][given].tolist(), out["list_sparse_o"][given].tolist()
        lasts = np.flatnonzero(out["list_last_o"][given])
        if len(given) and lasts.tolist() != [len(given) - 1]:
            given = given[:0]  # it ends where it does not say so
        dense = [c for c, is_sparse in zip(order, sparse, strict=True) if not is_sparse]
        chosen = [c for c, is_sparse in zip(order, sparse, strict=True) if is_sparse]
        return dense, chosen, given.tolist()

    def write_coverage(self, path: Path) -> None:
        """Writes the counters (builds with coverage)."""
        self._block.write_coverage(path)

    def close(self) -> None:
        self._block.close()


class DetectorBench:
    """The detector under test: small, so that corners come often."""

    SMALL = DetectorGeometry(width=4, channels=16, layers=4, count_width=12)

    def __init__(
        self,
        own_dir: Path | None = None,
        plusargs: str = "",
        before: tuple[Path, ...] = (),
        coverage: bool = False,
    ) -> None:
        self.block = DetectorBlock(self.SMALL, own_dir, plusargs, before, coverage)

    def check(self, model: DetectorReference, seed: int, layers: int = 120) -> tuple[str, int]:
        """(what differs first, or nothing; channels that were tagged)."""
        rng, held, tagged = np.random.default_rng([seed, 5]), dict[int, Bools](), 0
        for turn in range(layers):
            channels, pixels = int(rng.choice([1, 2, 16, int(rng.integers(1, 17))])), int(rng.integers(1, 40))
            layer, update = int(rng.integers(4)), turn < 8 or bool(rng.random() < 0.7)
            codes = np.where(
                rng.random((channels, pixels)) < rng.random((channels, 1)),
                0,
                rng.integers(0, 16, (channels, pixels)),
            ).astype(np.uint8)
            zeros = (codes == 0).sum(1)
            if turn % 3 == 0:  # a channel exactly on the threshold, one just below
                least = int(zeros[rng.integers(channels)]) + int(rng.integers(0, 2))
            else:
                least = model.theta_count(float(rng.choice([0, 0.1, 0.3, 0.5, 1, 1.01])), pixels)
            if turn == 7:  # the largest picture: a channel of zeros, one without, one of both
                channels, pixels = 3, (1 << self.SMALL.count_width) - 1
                codes = np.stack([np.zeros(pixels), np.full(pixels, 15), np.arange(pixels) % 16]).astype(
                    np.uint8
                )
                zeros, least = (codes == 0).sum(1), pixels
            words = channels * -(-pixels // self.SMALL.width)
            late = rng.random(2 * words) < 0.4 if turn % 4 == 3 else None
            if turn % 10 == 9 and not self.block.cut(rng):
                return (
                    f"detector, layer {turn} of seed {seed}: one cycle of reset does not silence it",
                    tagged,
                )
            got = self.block.write_back(
                codes, theta_count=least, layer=layer, update=update, late=late, insists=turn % 5 == 2
            )
            where = (
                f"layer {turn} of seed {seed} ({channels} channels of {pixels} codes, at least {least} zero)"
            )
            right = zeros >= least
            if not np.array_equal(got.zeros, zeros) or not np.array_equal(got.sparse, right):
                return f"detector, {where}: tags {got.sparse.tolist()} of {got.zeros.tolist()} zeros", tagged
            if got.waited:
                return f"detector, {where}: codes waited for {got.waited} cycles", tagged
            due = model.tag_cycles(channels, pixels, self.SMALL.width)
            if late is None and not (np.array_equal(got.cycles, due) and got.idle == due[-1] + 1):
                said = f"{got.cycles.tolist()}, idle in {got.idle}, not {due.tolist()}"
                return f"detector, {where}: tags in cycles {said}", tagged
            tagged += channels
            if update:
                held[layer] = _kept(held.get(layer), right)
            if layer in held:
                said = self._lists(model, layer, held[layer], rng, slow=turn % 2 == 1)
                if said:
                    return f"detector, lists after {where}: {said}", tagged
        return "", tagged

    def _lists(
        self, model: DetectorReference, layer: int, tags: Bools, rng: np.random.Generator, slow: bool
    ) -> str:
        channels = len(tags)
        ready = None
        if slow:
            ready = (rng.random(6 * channels + 12) < 0.4).astype(np.uint8)
            ready[-channels - 4 :] = 1
        dense, sparse, cycles = self.block.lists(layer, channels, ready)
        if (dense, sparse) != (np.flatnonzero(~tags).tolist(), np.flatnonzero(tags).tolist()):
            return f"dense {dense}, sparse {sparse}, tags are {tags.tolist()}"
        if ready is None and cycles != list(range(2, model.scan_cycles(channels) + 1)):
            return f"channels came in cycles {cycles}"
        return "" if len(cycles) == channels else f"{len(cycles)} of {channels} channels"


def _kept(before: Bools | None, now: Bools) -> Bools:
    """Tags of a layer in memory: those of channels it does not have this time stay."""
    if before is None or len(before) <= len(now):
        return now
    return np.concatenate([now, before[len(now) :]])
