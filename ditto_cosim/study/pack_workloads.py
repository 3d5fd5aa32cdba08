# SPDX-License-Identifier: Apache-2.0
"""Captures and lowers the paper's workloads at published sizes, for `ditto_cosim/study/workloads.py` to read.

Run as `python -m ditto_cosim.study.pack_workloads [NAME…]`. Needs torch and diffusers, no weights: everything is on
`meta`.
"""

from __future__ import annotations

import gzip
import inspect
import json
import sys
from pathlib import Path

import torch

from ditto_cosim.host import zoo
from ditto_cosim.host.compiler.cache import Cache, CachePlan, outputs, places
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.factors import LayerFactors
from ditto_cosim.host.compiler.lower import lower
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import layer_work
from ditto_cosim.study import workloads

CACHED = {"dit_reuse": 0, **{f"dit_icc_{rank}": rank for rank in (128, 192, 256)}}
"""DiT-XL/2 with increments: rank, 0 for reuse. The period is a number that its reader sets."""


def lowered_program(name: str) -> Program:
    """The program of one workload's denoiser, from its configuration."""
    plan = None
    cached, name = name, "dit" if name in CACHED else name
    denoiser = zoo.build_denoiser(name, "meta")
    if cached in CACHED:
        plan = _plan(denoiser, CACHED[cached])
    positional, named = zoo.example_inputs(name, "meta")
    given = dict(zip(inspect.signature(denoiser.forward).parameters, positional, strict=False)) | named
    tensors = {k: v for k, v in given.items() if isinstance(v, torch.Tensor)}
    extra = {k: v for k, v in given.items() if not isinstance(v, torch.Tensor)}
    return lower(capture(denoiser, tensors, extra=extra), None, plan=plan).program


def _plan(denoiser: torch.nn.Module, rank: int) -> CachePlan:
    """Increments of a denoiser without weights."""
    found = places(denoiser)
    if not rank:
        return CachePlan(Cache("reuse", 2), outputs(list(found), ("attention", "mlp")))

    def factors(layer: torch.nn.Linear) -> LayerFactors:
        def matrix(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.int8, device="meta")

        a, b = matrix(layer.out_features, rank), matrix(rank, layer.in_features)
        return LayerFactors(a, torch.ones(len(a)), b, torch.ones(len(b)), (1.0,), "")

    return CachePlan(
        Cache("icc", 2), frozenset(found), {name: factors(layer) for name, layer in found.items()}
    )


def pack(program: Program) -> bytes:
    """The bytes that are committed: the same program gives the same bytes."""
    text = json.dumps(program.to_dict(), separators=(",", ":"), sort_keys=True)
    return gzip.compress(text.encode(), 9, mtime=0)


def main(names: list[str]) -> None:
    folder = Path(workloads.__file__).with_name("programs")
    for name in names or (*workloads.WORKLOADS, *CACHED):
        program = lowered_program(name)
        blob = pack(program)
        (folder / f"{name}.json.gz").write_bytes(blob)
        macs = sum(w.macs for i in range(len(program.layers)) for w in layer_work(program, i, "original"))
        print(f"{name}: {len(program.layers)} layers, {macs / 1e9:.1f} GMAC, {len(blob)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
