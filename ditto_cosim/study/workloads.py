# SPDX-License-Identifier: Apache-2.0
"""The paper's seven workloads as programs at published sizes: Table I with the layers behind each row.

Interface: `WORKLOADS[name]` (the zoo's), `TITLES[name]`, `workload_program(name) -> Program`.
The programs lie compressed in `programs/`; `python -m ditto_cosim.study.pack_workloads` captures and lowers them anew
from the zoo's configurations on `meta`. Batch 1; weights and scales are not in them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from ditto_cosim.host.zoo.workloads import Workload, workloads
from ditto_cosim.protocol.program import Program

WORKLOADS: Mapping[str, Workload] = workloads()

TITLES = {
    "ddpm": "DDPM",
    "bed": "BED",
    "chur": "CHUR",
    "img": "IMG",
    "sdm": "SDM",
    "dit": "DiT",
    "latte": "Latte",
}
"""As the paper writes them."""


@cache
def workload_program(name: str) -> Program:
    """The lowered denoiser of one workload."""
    return packed_program(name)


@cache
def packed_program(name: str) -> Program:
    """A workload's program, or one of DiT-XL/2 with increments: `dit_reuse`, `dit_icc_128`, … (`icc.py`)."""
    file = resources.files("ditto_cosim.study").joinpath("programs").joinpath(f"{name}.json.gz")
    return Program.from_dict(json.loads(gzip.decompress(file.read_bytes())))
