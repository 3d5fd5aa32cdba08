# SPDX-License-Identifier: Apache-2.0
"""Regression cases: everything a pass through a tile needs, made from a few numbers.

A case is its parameters and a seed, so it fits on a command line (`Case.text`, `Case.parse`) and always
makes the same arrays. `window` keeps part of the rows, elements and columns: shrinking a case narrows it
without changing the data. What it does not do: run anything or know what is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ditto_cosim.protocol.hardware import MODES, Geometry, Mode

from .errors import TileInputError
from .tile import Stalls

I8 = npt.NDArray[np.int8]
Rng = np.random.Generator

Data = Literal["mixed", "sparse", "zero", "low", "full", "edges", "extreme", "ramp", "random", "paper"]
WeightKind = Literal["random", "lowest", "highest", "signs"]
StallKind = Literal["none", "light", "heavy", "bursts", "slow_operands", "slow_results", "ticks"]

DATA: tuple[Data, ...] = get_args(Data)
WEIGHTS: tuple[WeightKind, ...] = get_args(WeightKind)
STALLS: tuple[StallKind, ...] = get_args(StallKind)

_EDGES = np.array([-255, -16, -15, -9, -8, -7, -1, 0, 1, 7, 8, 9, 15, 16, 17, 31, 255])


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a case: first and count of rows, elements, columns; a count of 0 is all of them."""

    row: int = 0
    rows: int = 0
    element: int = 0
    elements: int = 0
    column: int = 0
    columns: int = 0


@dataclass(frozen=True, slots=True)
class Operands:
    """A case's arrays."""

    current: I8
    reference: I8
    weights: I8
    stalls: Stalls | None


@dataclass(frozen=True, slots=True)
class Case:
    """One pass: geometry by name, shape, mode, kinds of data, weights and stalls, seed."""

    geometry: str
    m: int
    k: int
    n: int
    mode: Mode
    data: Data = "mixed"
    weights: WeightKind = "random"
    stalls: StallKind = "none"
    keep_weights: bool = False
    """Run on the weights of the case before, if they have this shape."""
    preload: bool = False
    """Load the next case's weights meanwhile (two weight banks)."""
    attack: bool = False
    """Garbage on ports without their valid, starts and weights where they must not be heard (checked builds)."""
    reset: int = 0
    """−1: on a new tile in a random state; n > 0: a reset cuts the pass in its cycle n, then it runs (checked builds)."""
    seed: int = 0
    window: Window = Window()

    @property
    def text(self) -> str:
        """The case on a command line."""
        names = [f.name for f in fields(self) if f.name != "window"]
        parts = [f"{name}={getattr(self, name)}" for name in names]
        cut = ":".join(str(getattr(self.window, f.name)) for f in fields(Window))
        return ",".join([*parts, f"window={cut}"])

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that `text` names."""
        values: dict[str, object] = {}
        kinds = {f.name: f.type for f in fields(cls)}
        for part in text.split(","):
            name, _, value = part.partition("=")
            if name not in kinds or not value:
                raise TileInputError(f"case: {part!r} is not name=value with a name of {', '.join(kinds)}")
            try:
                if name == "window":
                    values[name] = Window(*(int(x) for x in value.split(":")))
                elif kinds[name] == "int":
                    values[name] = int(value)
                elif kinds[name] == "bool":
                    values[name] = {"True": True, "False": False}[value]
                else:
                    values[name] = value
            except (ValueError, TypeError, KeyError):
                raise TileInputError(f"case: {part!r}: {value!r} is no {kinds[name]}") from None
        missing = [name for name in ("geometry", "m", "k", "n", "mode") if name not in values]
        if missing:
            raise TileInputError(f"case: {', '.join(missing)} not given in {text!r}")
        for name, known in (("mode", MODES), ("data", DATA), ("weights", WEIGHTS), ("stalls", STALLS)):
            if name in values and values[name] not in known:
                raise TileInputError(f"case: {name} = {values[name]!r} is none of {', '.join(known)}")
        return cls(**values)  # type: ignore[arg-type]  # the fields' types were looked up above

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, K, N) inside the window."""
        w = self.window
        return w.rows or self.m, w.elements or self.k, w.columns or self.n

    def operands(self, lanes: int) -> Operands:
        """The case's arrays."""
        rng = np.random.default_rng([self.seed, self.m, self.k, self.n])
        reference, current = _activations(self.data, self.m, self.k, rng)
        weights = _weights(self.weights, self.k, self.n, rng)
        w = self.window
        rows = slice(w.row, w.row + (w.rows or self.m))
        elements = slice(w.element, w.element + (w.elements or self.k))
        columns = slice(w.column, w.column + (w.columns or self.n))
        return Operands(
            np.ascontiguousarray(current[rows, elements]),
            np.ascontiguousarray(reference[rows, elements]),
            np.ascontiguousarray(weights[elements, columns]),
            stalls_of(self.stalls, lanes, rng),
        )

    def smaller(self) -> Iterator[Case]:
        """Simpler cases to try, the boldest first."""
        m, k, n = self.shape
        w = self.window
        if self.reset:
            yield replace(self, reset=0)
        if self.attack:
            yield replace(self, attack=False)
        if self.stalls != "none":
            yield replace(self, stalls="none")
        if self.preload:
            yield replace(self, preload=False)
        if self.keep_weights:
            yield replace(self, keep_weights=False)
        if self.data not in ("low", "full"):  # dense rows need fewer elements to show the same
            yield replace(self, data="low")
            yield replace(self, data="full")
        for count in _halves(m):
            for first in {w.row, w.row + m - count}:
                yield replace(self, window=replace(w, row=first, rows=count))
        for count in _halves(n):
            for first in {w.column, w.column + n - count}:
                yield replace(self, window=replace(w, column=first, columns=count))
        for count in _halves(k):
            for first in {w.element, w.element + k - count}:
                yield replace(self, window=replace(w, element=first, elements=count))


def _halves(count: int) -> list[int]:
    return sorted({1, count // 2, count * 3 // 4, count - 1} - {0, count}) if count > 1 else []


def _activations(kind: Data, m: int, k: int, rng: Rng) -> tuple[I8, I8]:
    """(reference, current)."""
    reference = rng.integers(-128, 128, (m, k))
    if kind == "random":
        return reference.astype(np.int8), rng.integers(-128, 128, (m, k)).astype(np.int8)
    if kind == "extreme":
        sign = rng.choice([-1, 1], (m, 1)) if rng.random() < 0.5 else rng.choice([-1, 1], (m, k))
        reference = np.where(sign > 0, -128, 127) * np.ones((1, k), int)
        return reference.astype(np.int8), (-1 - reference).astype(np.int8)
    if kind == "ramp":  # row r: r low differences, then nothing, so that slot counts take every value
        d = (np.arange(k)[None] < np.arange(m)[:, None]) * rng.choice([1, 2, 16, 40])
    elif kind == "zero":
        d = np.zeros((m, k), int)
    elif kind == "low":
        d = rng.integers(-8, 8, (m, k))
    elif kind == "full":
        d = rng.choice([-1, 1], (m, k)) * rng.integers(16, 100, (m, k))
    elif kind == "edges":
        d = rng.choice(_EDGES, (m, k))
    elif kind == "sparse":
        d = np.where(rng.random((m, k)) < 2 / max(k, 2), rng.integers(-128, 128, (m, k)), 0)
    elif kind == "paper":
        u = rng.random((m, k))
        d = np.where(
            u < 0.445, 0, np.where(u < 0.96, rng.integers(-8, 8, (m, k)), rng.choice([-30, 30], (m, k)))
        )
    else:  # mixed: a density of its own for every row
        u, zero, low = rng.random((m, k)), rng.random((m, 1)), rng.random((m, 1))
        wide = rng.integers(-255, 256, (m, k))
        d = np.where(u < zero, 0, np.where(u < zero + (1 - zero) * low, rng.integers(-9, 9, (m, k)), wide))
    # The reference moves so that the difference is kept.
    reference = np.clip(reference, np.maximum(-128, -128 - d), np.minimum(127, 127 - d))
    return reference.astype(np.int8), (reference + d).astype(np.int8)


def _weights(kind: WeightKind, k: int, n: int, rng: Rng) -> I8:
    if kind == "random":
        return rng.integers(-128, 128, (k, n)).astype(np.int8)
    if kind == "signs":
        return rng.choice([-128, 127, -1, 0, 1], (k, n)).astype(np.int8)
    return np.full((k, n), -128 if kind == "lowest" else 127, np.int8)


def stalls_of(kind: StallKind, lanes: int, rng: Rng) -> Stalls | None:
    if kind == "none":
        return None
    shape = (lanes, int(rng.integers(50, 1500)))
    offer, accept = np.ones(shape, bool), np.ones(shape, bool)
    if kind == "light":
        offer, accept = rng.random(shape) < 0.9, rng.random(shape) < 0.9
    elif kind == "heavy":
        offer, accept = rng.random(shape) < 0.2, rng.random(shape) < 0.05
    elif kind == "bursts":
        offer = np.repeat(rng.random((lanes, shape[1] // 16 + 1)) < 0.5, 16, axis=1)[:, : shape[1]]
        accept = np.repeat(rng.random((lanes, shape[1] // 16 + 1)) < 0.3, 16, axis=1)[:, : shape[1]]
    elif kind == "slow_operands":
        offer = rng.random(shape) < 0.05
    elif kind == "slow_results":
        accept = rng.random(shape) < 0.02
    else:  # ticks: strict periods
        offer = np.arange(shape[1])[None] % int(rng.integers(1, 5)) == rng.integers(0, 1)
        accept = np.arange(shape[1])[None] % int(rng.integers(2, 9)) == 0
        offer, accept = np.broadcast_to(offer, shape).copy(), np.broadcast_to(accept, shape).copy()
    offer[:, -1] = accept[:, -1] = True  # whatever the draw: nobody waits for ever
    return Stalls(offer.astype(np.uint8), accept.astype(np.uint8))


def random_case(name: str, geometry: Geometry, rng: Rng, *, small: bool, checked: bool) -> Case:
    """A case of this geometry; small ones reach more corners a second, large ones more of each.

    Resets and attacks need a `checked` build."""
    k_top = min(geometry.k_max, 6 * geometry.encode_width) if small else geometry.k_max
    n_top = geometry.n_max
    n = int(rng.choice([1, geometry.columns, n_top, int(rng.integers(1, n_top + 1))]))
    k = int(
        rng.choice([k_top, int(rng.integers(1, k_top + 1)), int(rng.integers(1, geometry.encode_width + 2))])
    )
    return Case(
        name,
        m=int(rng.integers(1, 5 * geometry.lanes + 8)) if small else int(rng.integers(1, 40)),
        k=k,
        n=n,
        mode=MODES[int(rng.integers(len(MODES)))],
        data=DATA[int(rng.integers(len(DATA)))],
        weights=WEIGHTS[int(rng.choice(len(WEIGHTS), p=[0.7, 0.1, 0.1, 0.1]))],
        stalls=STALLS[int(rng.integers(len(STALLS)))] if rng.random() < 0.6 else "none",
        keep_weights=bool(rng.random() < 0.3),
        preload=geometry.weight_banks == 2 and bool(rng.random() < 0.5),
        attack=checked and bool(rng.random() < 0.5),
        reset=int(rng.choice([-1, int(rng.integers(1, 120))])) if checked and rng.random() < 0.15 else 0,
        seed=int(rng.integers(1 << 31)),
    )


def directed_cases(name: str, geometry: Geometry, *, checked: bool) -> list[Case]:
    """Corners that chance would reach late; with resets and attacks if the build is `checked`."""
    e, c, lanes = geometry.encode_width, geometry.columns, geometry.lanes
    k_max, n_max = geometry.k_max, geometry.n_max
    cases: list[Case] = []

    def add(
        m: int, k: int, n: int, mode: Mode = "temporal", data: Data = "mixed", *, weights: WeightKind = "random",
        stalls: StallKind = "none", keep: bool = False, preload: bool = False, reset: int = 0,
    ) -> None:  # fmt: skip
        attack = checked and (reset != 0 or len(cases) % 2 == 1)
        case = Case(name, m, k, n, mode, data, weights, stalls, keep, preload, attack, reset, seed=len(cases))
        cases.append(case)

    if checked:  # first: most wrong lines show here
        for power_up in range(6):
            add(
                2 * lanes + 1, 2 * e + 1, min(n_max, 2 * c), "temporal", reset=-1, stalls=STALLS[power_up % 3]
            )
        for cycle in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 20, 25, 31, 40):
            add(4 * lanes, 3 * e, min(n_max, 2 * c), MODES[cycle % 3], reset=cycle, stalls=STALLS[cycle % 3])

    every_k = (
        range(1, k_max + 1) if k_max <= 64 else sorted({*range(1, 2 * e + 2), k_max - e, k_max - 1, k_max})
    )
    for k in every_k:
        add(2 * lanes + 1, k, c, MODES[k % 3], DATA[k % len(DATA)], stalls=STALLS[k % len(STALLS)])
    for mode in MODES:
        for data in DATA:
            add(lanes + 2, min(k_max, 3 * e + 1), min(n_max, 2 * c), mode, data)
        for weights in WEIGHTS:
            add(3, k_max, n_max, mode, "extreme", weights=weights)
            add(3, k_max, c, mode, "full", weights=weights, stalls="heavy")
    for m in {1, lanes, lanes + 1, 2 * lanes, 3 * lanes + 1}:
        for n in sorted({1, c, min(n_max, c + 1), n_max, max(1, n_max - 1)}):
            for stalls in ("none", "slow_results", "ticks"):
                add(m, min(k_max, 2 * e), n, "temporal", "sparse", stalls=stalls)
    for data in ("zero", "low", "sparse", "ramp"):
        for stalls in STALLS:
            add(6 * lanes, min(k_max, 4 * e), min(n_max, 3 * c), "temporal", data, stalls=stalls)
    add(4 * e + 3, min(k_max, 4 * e + 2), c, "temporal", "ramp")
    add(4 * lanes, k_max, c, "temporal", "sparse")  # the encoder is the slower one
    if geometry.weight_banks == 2:
        for m, k in ((1, min(k_max, 2 * e)), (12 * lanes, e), (2, k_max)):
            add(m, k, n_max, "temporal", "mixed", preload=True)
            add(m, k, n_max, "original", "mixed", preload=True, keep=True, stalls="light")
    return cases
