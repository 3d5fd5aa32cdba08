"""The paper's seven workloads as programs at published sizes: Table I with the layers behind each row.

Interface: `WORKLOADS[name]` (steps, sampler, title), `workload_program(name) -> Program`.
The programs lie compressed in `workloads/`; `python -m ditto_cosim.study.pack_workloads` captures and lowers them anew
from the zoo's configurations on `meta`. Batch 1; weights and scales are not in them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from ditto_cosim.protocol.program import Program


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of Table I."""

    name: str
    title: str
    steps: int
    sampler: str


WORKLOADS: Mapping[str, Workload] = {
    w.name: w
    for w in (
        Workload("ddpm", "DDPM", 100, "DDIM"),
        Workload("bed", "BED", 200, "DDIM"),
        Workload("chur", "CHUR", 200, "DDIM"),
        Workload("img", "IMG", 20, "DDIM"),
        Workload("sdm", "SDM", 50, "PLMS"),
        Workload("dit", "DiT", 250, "DDIM"),
        Workload("latte", "Latte", 20, "DDIM"),
    )
}


@cache
def workload_program(name: str) -> Program:
    """The lowered denoiser of one workload."""
    file = resources.files("ditto_cosim.study").joinpath("programs").joinpath(f"{name}.json.gz")
    return Program.from_dict(json.loads(gzip.decompress(file.read_bytes())))
