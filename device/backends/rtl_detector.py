# SPDX-License-Identifier: Apache-2.0
"""SQ-DM's sparsity detector in RTL, in the run: every layer's input is written back through it, and its lists are the run's tags.

Contract. A layer's codes go through the Verilated detector channel by channel. Zeros of every channel, its tag, the cycle in
which the tag is out (`timing/detector.py`) and, where tags are taken from the same step, the two lists that its memory gives
must be those that the machine goes by, or the run stops with the first channel that differs.

The detector's tag memory holds as many layers as the RTL's own parameter says; a run with more has another detector beside it.
What this file does not do: decide tags (`timing/hetero.py`), drive the RTL (`sim_harness/detector.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ditto_cosim.device.backends.base import WrittenBack
from ditto_cosim.device.timing.detector import tag_cycles
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.detector import DetectorBlock, DetectorGeometry
from ditto_cosim.sim_harness.errors import HarnessError
from ditto_cosim.toolchain import BuildError


@dataclass(slots=True)
class _Seen:
    """A layer's place in the tag memory."""

    place: int
    stored: bool = False
    """Whether its tags were written in this process: a device that was restarted begins with an empty memory."""


class RtlDetector:
    """See the file's header."""

    def __init__(self, options: BuildOptions | None = None, geometry: DetectorGeometry | None = None) -> None:
        self._own_dir = (options or BuildOptions()).rtl_dir
        self._geometry = geometry or DetectorGeometry()
        self._blocks: list[DetectorBlock] = []
        self._layers: dict[str, _Seen] = {}

    def hold_tags(self, written: WrittenBack) -> None:
        """Writes the codes back; lists are compared once this process has stored the layer's tags."""
        try:
            self._hold(written)
        except (BuildError, HarnessError) as error:
            raise BackendError(f"layer {written.layer!r}: detector: {error}") from error

    def _hold(self, written: WrittenBack) -> None:
        layer, codes, listed = written.layer, written.codes, written.listed
        channels, pixels = codes.shape
        most = self._geometry.channels
        if channels > most:
            raise BackendError(f"layer {layer!r}: {channels} channels, the detector in RTL takes 1…{most}")
        seen = self._layers.setdefault(layer, _Seen(len(self._layers)))
        detector, place = self._at(seen.place)
        got = detector.write_back(
            (codes & 15).view(np.uint8), theta_count=written.least, layer=place, update=written.update
        )
        due = tag_cycles(channels, pixels, self._geometry.width)
        for what, right, found in (
            ("zero codes", pixels - written.nonzero, got.zeros),
            ("tag (1: sparse)", written.counted, got.sparse),
            ("cycle of its tag", due, got.cycles),
        ):
            if not np.array_equal(right, found):
                channel = int(np.flatnonzero(right != found)[0])
                raise BackendError(
                    f"layer {layer!r}: detector in RTL, channel {channel}: {what} {int(found[channel])}, expected "
                    f"{int(right[channel])}"
                )
        if got.waited:
            raise BackendError(
                f"layer {layer!r}: the detector in RTL made codes wait for {got.waited} cycles"
            )
        seen.stored |= written.update
        if listed is not None and seen.stored:
            dense, sparse, _ = detector.lists(place, channels)
            if dense != np.flatnonzero(~listed).tolist() or sparse != np.flatnonzero(listed).tolist():
                raise BackendError(
                    f"layer {layer!r}: detector in RTL lists channels {sparse} as sparse, the run goes by "
                    f"{np.flatnonzero(listed).tolist()}"
                )

    def _at(self, place: int) -> tuple[DetectorBlock, int]:
        number, inside = divmod(place, self._geometry.layers)
        while len(self._blocks) <= number:
            self._blocks.append(DetectorBlock(self._geometry, self._own_dir))
        return self._blocks[number], inside

    def close(self) -> None:
        for block in self._blocks:
            block.close()
        self._blocks.clear()
