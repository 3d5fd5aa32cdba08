# SPDX-License-Identifier: Apache-2.0
"""Backend `rtl:FOLDER`: every product runs through the user's own RTL, checked as it comes out.

Interfaces are compared before anything is built. Values are held to an integer product, always: a wrong accumulator ends the
run and names row and column. Without a contract of the user's own the machine holds slots and cycles to ours, as for
`rtl`. With one (`rtl:FOLDER,file.py:Class`) this backend holds every pass to that, and reports slots by the chip's low rule,
which is what prices and shares are made of; the cycles are the RTL's.
What this file does not do: run the RTL (`rtl.py`).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from ditto_cosim.device.backends.base import I32, Gemm, GemmResult
from ditto_cosim.device.backends.model import ModelBackend
from ditto_cosim.device.backends.rtl import RtlBackend, Share
from ditto_cosim.device.chips import Chip
from ditto_cosim.device.timing.contract import load_contract
from ditto_cosim.protocol.errors import BackendError
from ditto_cosim.protocol.record import split_k
from ditto_cosim.sim_harness.build import BuildOptions
from ditto_cosim.sim_harness.interface import check_interface
from ditto_cosim.sim_harness.tile import TileProduct
from ditto_cosim.toolchain import BuildError


class OwnRtlBackend(RtlBackend):
    """See the file's header."""

    def __init__(self, chip: Chip, folder: Path, contract: str) -> None:
        try:
            own = check_interface(folder, chip.geometry)
        except BuildError as error:
            raise BackendError(str(error)) from error
        self.own_contract = bool(contract)
        self._contract = load_contract(contract)
        self._model = ModelBackend(chip)
        self.watches_passes = self.own_contract
        super().__init__(chip, options=BuildOptions(rtl_dir=folder))
        self.name = f"rtl ({', '.join(own)} of {folder})"

    def gemm(self, job: Gemm) -> GemmResult:
        result, expected = super().gemm(job), self._model.gemm(job)
        if not np.array_equal(result.accumulators, expected.accumulators):
            at = tuple(int(i) for i in np.argwhere(result.accumulators != expected.accumulators)[0])
            raise BackendError(
                f"layer {job.name!r} ({job.mode}): {self.name} gives {result.accumulators[at]} at (group, row, column) {at}, "
                f"the product is {expected.accumulators[at]}; `ditto rtl test --rtl-dir` narrows it down"
            )
        if not self.own_contract:
            return result
        return GemmResult(
            result.accumulators, expected.slots, expected.zero, expected.low, expected.full, result.cycles
        )

    def close(self) -> None:
        super().close()
        self._model.close()

    def _ran(self, job: Gemm, share: Share, product: TileProduct) -> None:
        """Holds every pass of a share to the user's contract."""
        chunks = split_k(job.current.shape[2], self.geometry.k_max)
        pieces = [slice(*p) for p in pairwise(np.cumsum([0, *chunks]).tolist())][share.chunks]
        rows = share.rows
        edges = [a.rows.start - rows.start for a in share.assignments] + [rows.stop - rows.start]
        columns = share.columns
        seen: I32 = np.zeros_like(product.classes)
        for i, part in enumerate(pieces):
            length = part.stop - part.start
            current = job.current[share.group, rows, part]
            reference = (
                job.reference if isinstance(job.reference, int) else job.reference[share.group, rows, part]
            )
            counts = self._contract.row_counts(current, reference, job.mode, self.geometry.low_rule)
            seen += counts
            slots, n = counts[1] + 2 * counts[2], columns.stop - columns.start
            for j in range(len(edges) - 1):
                expected = self._contract.tile_times(
                    slots[edges[j] : edges[j + 1]], length, n, self.geometry
                ).cycles
                if expected != product.cycles[i, j]:
                    raise BackendError(
                        f"layer {job.name!r} ({job.mode}): {self.name} took {product.cycles[i, j]} cycles for rows "
                        f"{rows.start + edges[j]}…{rows.start + edges[j + 1] - 1}, K = {length}, N = {n}; "
                        f"{type(self._contract).__name__} says {expected}"
                    )
        if not np.array_equal(seen, product.classes):
            what, row = (int(x) for x in np.argwhere(seen != product.classes)[0])
            raise BackendError(
                f"layer {job.name!r} ({job.mode}): {self.name} counts {product.classes[what, row]} "
                f"{('zero', 'low', 'full')[what]} elements in row {rows.start + row}, "
                f"{type(self._contract).__name__} {seen[what, row]}"
            )
