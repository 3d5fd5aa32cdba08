# SPDX-License-Identifier: Apache-2.0
"""Regression cases of SQ-DM's two arrays: everything a pass needs, made from a few numbers.

A case is its parameters and a seed, so it fits on a command line (`ArrayCase.text`, `ArrayCase.parse`) and always makes the
same operands. What it does not do: run anything or know what is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.blocks import E4M3_CODES
from ditto_cosim.protocol.hardware import ArrayGeometry

from .array import Codes, Layout
from .cases import STALLS, StallKind, stalls_of
from .errors import TileInputError
from .tile import Stalls

I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]
Rng = np.random.Generator

CodeKind = Literal["mixed", "sparse", "zero", "largest", "ramp", "random", "block_by_block"]
ChannelKind = Literal["all", "half", "few", "one", "alternate", "ragged"]
ScaleKind = Literal["random", "largest", "smallest", "zero"]

CODES: tuple[CodeKind, ...] = get_args(CodeKind)
CHANNELS: tuple[ChannelKind, ...] = get_args(ChannelKind)
SCALES: tuple[ScaleKind, ...] = get_args(ScaleKind)


@dataclass(frozen=True, slots=True)
class ArrayOperands:
    """A case's arrays; scales are E4M3 codes."""

    layout: Layout
    codes: Codes
    scales: U8
    weights: I8
    weight_scales: U8
    stalls: Stalls | None


@dataclass(frozen=True, slots=True)
class ArrayCase:
    """One pass: array by name of its set, shape, kinds of codes, channels, scales and stalls, seed."""

    array: str
    m: int
    blocks: int
    """Scale blocks of a row."""
    n: int
    signed: bool = False
    codes: CodeKind = "mixed"
    channels: ChannelKind = "half"
    scales: ScaleKind = "random"
    stalls: StallKind = "none"
    attack: bool = False
    """Garbage on ports without their valid, starts and weights where they must not be heard (checked builds)."""
    reset: int = 0
    """−1: on a new tile in a random state; n > 0: a reset cuts the pass in its cycle n, then it runs (checked builds)."""
    seed: int = 0

    @property
    def text(self) -> str:
        """The case on a command line."""
        return ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @classmethod
    def parse(cls, text: str) -> ArrayCase:
        """The case that `text` names."""
        kinds = {f.name: f.type for f in fields(cls)}
        known = {"codes": CODES, "channels": CHANNELS, "scales": SCALES, "stalls": STALLS}
        values: dict[str, object] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in kinds or not value:
                raise TileInputError(f"case: {part!r} is not name=value with a name of {', '.join(kinds)}")
            try:
                if kinds[name] == "int":
                    values[name] = int(value)
                elif kinds[name] == "bool":
                    values[name] = {"True": True, "False": False}[value]
                else:
                    values[name] = value
            except (ValueError, KeyError):
                raise TileInputError(f"case: {part!r}: {value!r} is no {kinds[name]}") from None
            if name in known and value not in known[name]:
                raise TileInputError(f"case: {name} = {value!r} is none of {', '.join(known[name])}")
        missing = [name for name in ("array", "m", "blocks", "n") if name not in values]
        if missing:
            raise TileInputError(f"case: {', '.join(missing)} not given in {text!r}")
        return cls(**values)  # type: ignore[arg-type]  # the fields' types were looked up above

    def operands(self, geometry: ArrayGeometry) -> ArrayOperands:
        """The case's arrays."""
        rng = np.random.default_rng([self.seed, self.m, self.blocks, self.n])
        g = geometry.block_size
        wanted = _channels(self.channels, self.blocks, g, rng)
        codes = _codes(self.codes, self.m, self.blocks * g, g, self.signed, rng)
        weights = rng.choice([-7, 7], (self.blocks * g, self.n)) if self.codes == "largest" else None
        drawn = rng.integers(-7, 8, (self.blocks * g, self.n)) if weights is None else weights
        return ArrayOperands(
            Layout.of(wanted, g),
            codes.astype(np.int8) if self.signed else codes.astype(np.uint8),
            _scales(self.scales, (self.m, self.blocks), rng),
            drawn.astype(np.int8),
            _scales(self.scales, (self.blocks, self.n), rng),
            stalls_of(self.stalls, 1, rng),
        )

    def smaller(self) -> Iterator[ArrayCase]:
        """Simpler cases to try, the boldest first."""
        plain = {
            "reset": 0,
            "attack": False,
            "stalls": "none",
            "signed": False,
            "scales": "random",
            "channels": "all",
        }
        for name, value in plain.items():
            if getattr(self, name) != value:
                yield replace(self, **{name: value})  # type: ignore[arg-type]  # each of its field's type
        for name in ("m", "blocks", "n"):
            count = getattr(self, name)
            for less in sorted({1, count // 2, count - 1} - {0, count}):
                yield replace(self, **{name: less})


def _channels(kind: ChannelKind, blocks: int, g: int, rng: Rng) -> npt.NDArray[np.bool_]:
    k = blocks * g
    if kind == "all":
        return np.ones(k, bool)
    wanted = np.zeros(k, bool)
    if kind == "alternate":
        wanted[::2] = True
        return wanted
    if kind == "one":
        wanted[rng.integers(k)] = True
        return wanted
    share = {"half": 0.5, "few": 0.1}.get(kind)
    if share is not None:
        wanted = rng.random(k) < share
    else:  # ragged: a block has as many as it likes, none among them
        wanted = np.arange(g)[None] < rng.integers(0, g + 1, (blocks, 1))
        wanted = rng.permuted(wanted, axis=1).reshape(-1)
    wanted[rng.integers(k)] = True
    return wanted


def _codes(kind: CodeKind, m: int, k: int, g: int, signed: bool, rng: Rng) -> npt.NDArray[np.int64]:
    top = 7 if signed else 15
    codes = rng.integers(-top, top + 1, (m, k)) if signed else rng.integers(0, top + 1, (m, k))
    if kind == "zero":
        return np.zeros((m, k), np.int64)
    if kind == "largest":
        return np.full((m, k), top) * (rng.choice([-1, 1], (m, 1)) if signed else 1)
    if kind == "ramp":  # row r: r codes, then nothing, so that counts take every value
        return np.where(np.arange(k)[None] < np.arange(m)[:, None], np.maximum(1, np.abs(codes)), 0)
    if kind == "sparse":
        return np.where(rng.random((m, k)) < 2 / k, codes, 0)
    if kind == "block_by_block":  # segments without a code between full ones
        return codes * np.repeat(rng.random((m, k // g)) < 0.5, g, axis=1)
    if kind == "mixed":  # a density of its own for every row
        return np.where(rng.random((m, k)) < rng.random((m, 1)), codes, 0)
    return codes


def _scales(kind: ScaleKind, shape: tuple[int, int], rng: Rng) -> U8:
    fixed = {"largest": E4M3_CODES - 1, "smallest": 1, "zero": 0}.get(kind)
    drawn = rng.integers(0, E4M3_CODES, shape) if fixed is None else np.full(shape, fixed)
    return drawn.astype(np.uint8)


def random_array_case(name: str, geometry: ArrayGeometry, rng: Rng, *, checked: bool) -> ArrayCase:
    """A case of this array; resets and attacks need a `checked` build."""
    return ArrayCase(
        name,
        m=int(rng.integers(1, 14)),
        blocks=int(rng.choice([1, geometry.segments_max, int(rng.integers(1, geometry.segments_max + 1))])),
        n=int(rng.choice([1, geometry.columns, geometry.n_max, int(rng.integers(1, geometry.n_max + 1))])),
        signed=bool(rng.random() < 0.5),
        codes=CODES[int(rng.integers(len(CODES)))],
        channels=CHANNELS[int(rng.integers(len(CHANNELS)))],
        scales=SCALES[int(rng.choice(len(SCALES), p=[0.7, 0.1, 0.1, 0.1]))],
        stalls=STALLS[int(rng.integers(len(STALLS)))] if rng.random() < 0.6 else "none",
        attack=checked and bool(rng.random() < 0.5),
        reset=int(rng.choice([-1, int(rng.integers(1, 120))])) if checked and rng.random() < 0.15 else 0,
        seed=int(rng.integers(1 << 31)),
    )


def directed_array_cases(name: str, geometry: ArrayGeometry, *, checked: bool) -> list[ArrayCase]:
    """Corners that chance would reach late; with resets and attacks if the build is `checked`."""
    most, c, n_max = geometry.segments_max, geometry.columns, geometry.n_max
    cases: list[ArrayCase] = []

    def add(m: int, blocks: int, n: int, codes: CodeKind = "mixed", channels: ChannelKind = "half",
            scales: ScaleKind = "random", stalls: StallKind = "none", reset: int = 0) -> None:  # fmt: skip
        seed = len(cases)
        attack = checked and (reset != 0 or seed % 2 == 1)
        cases.append(
            ArrayCase(name, m, blocks, n, seed % 3 == 0, codes, channels, scales, stalls, attack, reset, seed)
        )

    if checked:  # first: most wrong lines show here
        for power_up in range(6):
            add(3, 2, min(n_max, 2 * c), reset=-1, stalls=STALLS[power_up % 3])
        for cycle in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 20, 25, 31, 40):
            add(5, 2, min(n_max, 2 * c), reset=cycle, stalls=STALLS[cycle % 3])
    for codes in CODES:
        for channels in CHANNELS:
            add(4, most, min(n_max, 2 * c), codes, channels)
    for scales in SCALES:
        add(3, most, n_max, "largest", "all", scales)
        add(3, most, n_max, "random", "half", scales, stalls="heavy")
    for m in (1, 2, 3, 4, 9):
        for n in sorted({1, c, min(n_max, c + 1), n_max, max(1, n_max - 1)}):
            for stalls in ("none", "slow_results", "ticks"):
                add(m, 1, n, "sparse", "half", stalls=stalls)
    for codes in ("zero", "ramp", "block_by_block", "random"):
        for stalls in STALLS:
            add(7, min(2, most), min(n_max, 3 * c), codes, "ragged", stalls=stalls)
    add(2 * geometry.block_size + 3, 2, c, "ramp", "all")
    add(6, 1, c, "random", "one")  # a beat a row: results as fast as they come
    add(12, 1, n_max, "random", "one", stalls="heavy")
    return cases
