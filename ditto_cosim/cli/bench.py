# SPDX-License-Identifier: Apache-2.0
"""`ditto bench`: measures speed, prints a table or JSON."""

from __future__ import annotations

import importlib
from enum import StrEnum
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit


class Name(StrEnum):
    """What can be measured."""

    rtl = "rtl"
    model = "model"
    wire = "wire"
    dram = "dram"
    price = "price"
    ray = "ray"
    size = "size"
    generate = "generate"
    ratios = "ratios"


def bench(
    name: Annotated[Name, typer.Argument(help="What to measure")],
    quick: Annotated[bool, typer.Option(help="Fewer repetitions")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False,
) -> None:
    """Measure speed: ratios side by side within one run.

    rtl: the Verilated lane and tile; model: one denoising step by fp32, golden, model and rtl; wire: ZeroMQ overhead;
    dram: the DRAM model against two cycle-accurate simulators; price: re-pricing records; ray: a sweep on one Ray worker
    and on two; size: every phase in seconds and memory, from 1.9 M parameters to Stable Diffusion's UNet; generate: the
    whole command by phase, verified and plain, one and two at once; ratios: the quick form of rtl, model and generate
    beside what was last recorded for this kind of processor.
    """
    module = importlib.import_module(f"ditto_cosim.bench.{name.value}")
    figures = module.measure(quick)
    if as_json:
        emit(f"bench {name.value}", figures)
    else:
        print(module.table(figures))
