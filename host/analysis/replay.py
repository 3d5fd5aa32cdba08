# SPDX-License-Identifier: Apache-2.0
"""Computes a recorded run again with golden, from the inputs it recorded, to look at every value of it.

A replay is the run: what the run recorded of its elements is compared on the way. What this file does not do:
count (`analyze.py`), or run a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ditto_cosim.host.analysis.analyze import COUNTS, Analysis, Analyzer, Kind
from ditto_cosim.host.compiler.arguments import Call, from_description
from ditto_cosim.host.compiler.cache import Cache, CachePlan, plan_of
from ditto_cosim.host.compiler.capture import Captured, capture, capture_call
from ditto_cosim.host.compiler.factors import RUN_FACTORS, Factors
from ditto_cosim.host.compiler.lower import lower
from ditto_cosim.host.compiler.points import quantization_points
from ditto_cosim.host.compiler.quantize import Grid
from ditto_cosim.host.pipeline.run import INPUTS
from ditto_cosim.host.reference.golden import Golden, as_tensor
from ditto_cosim.protocol.errors import DittoError, IsaError
from ditto_cosim.protocol.hardware import LowRule, Mode
from ditto_cosim.protocol.program import Program
from ditto_cosim.protocol.record import RunInfo, RunRecord
from ditto_cosim.protocol.shelf import Shelf


class AnalysisError(DittoError):
    """A run that cannot be analysed; the message says what is missing or does not match."""


def recorded_inputs(directory: Path, program: Program, step: int) -> dict[str, Tensor]:
    """The denoiser's inputs in one step of a recorded run, as its program takes them."""
    name = INPUTS.format(step)
    try:
        found = Shelf(directory).arrays(name)
        for key, value in program.inputs.items():
            as_tensor(found[key], program.values[value], key)
        return {key: torch.from_numpy(array) for key, array in found.items()}
    except FileNotFoundError:
        raise AnalysisError(
            f"{directory}: {name} is missing; record the run again with this version"
        ) from None
    except KeyError as error:
        raise AnalysisError(f"{directory}: {name} has no input {error}, which the program takes") from None
    except (ValueError, TypeError, IsaError) as error:
        raise AnalysisError(f"{directory}: {name}: {error}") from None


def captured_again(denoiser: torch.nn.Module, inputs: Mapping[str, Tensor], info: RunInfo | None) -> Captured:
    """The denoiser captured with a recorded call."""
    asked = None if info is None else info.extra.get("call")
    if not isinstance(asked, Mapping):
        return capture(denoiser, inputs)
    if asked["structure"] is None or asked["inputs"] != list(inputs):
        raise AnalysisError(
            "the run's arguments were of classes that a record does not keep; it cannot be made again"
        )
    tensors = {n: t.bool() if n in asked["truths"] else t for n, t in inputs.items()}
    call = Call(tensors, tuple(tensors.values()), from_description(asked["structure"]))
    return capture_call(denoiser, denoiser.forward, call)


def factors_of(info: RunInfo | None) -> Mapping[str, tuple[float, ...]]:
    """Quantization point -> what the channels of its input were divided by in a run."""
    found = {} if info is None else info.extra.get("channels", {})
    return {point: tuple(factors) for point, factors in found.items()}


def _shaped_like(captured: Captured, info: RunInfo | None) -> dict[str, Grid] | None:
    """Grids of any scale with the run's factors of channels: they alone change constants."""
    if not (factors := factors_of(info)):
        return None
    points = quantization_points(captured).items()
    return {
        point: Grid("static", (1.0,), (0,), symmetric=symmetric, channels=factors.get(point, ()))
        for point, (_, symmetric) in points
    }


def _cache_plan(
    program: Program, denoiser: torch.nn.Module, info: RunInfo | None, run: Path | None
) -> CachePlan | None:
    """What a cached run's program was lowered with, its factors those that lie beside the record."""
    if not any(c.op == "linear_increment" for c in program.commands):
        return None
    cache = None if info is None else Cache.of(info.extra.get("cache"))
    if cache is None or run is None or not (run / RUN_FACTORS).is_file():
        raise AnalysisError(
            f"the run has increments, and its {RUN_FACTORS} is not beside it; `ditto generate --cache icc` leaves it there"
        )
    return plan_of(cache, denoiser, Factors.load(run / RUN_FACTORS))


def constants_of(
    program: Program,
    denoiser: torch.nn.Module,
    inputs: Mapping[str, Tensor],
    info: RunInfo | None = None,
    run: Path | None = None,
) -> dict[str, Tensor]:
    """The program's constants, made again from the denoiser it was lowered from; of a run with increments, also from the factors
    in its directory."""
    captured = captured_again(denoiser, inputs, info)
    plan = _cache_plan(program, denoiser, info, run)
    constants = dict(lower(captured, _shaped_like(captured, info), plan=plan).constants)
    for name, value in program.constants.items():
        spec, found = program.values[value], constants.get(name)
        if found is None or tuple(found.shape) != spec.shape:
            raise AnalysisError(
                f"constant {name!r} of the run ({spec}) is not in this model; was it another model?"
            )
    return {name: constants[name] for name in program.constants}


def refuse_cached(record: RunRecord) -> None:
    """An analysis is of differences from one step to the next, and of layers that are in every step."""
    if record.program.period > 1:
        raise AnalysisError(
            f"{record.directory}: the run has steps of two classes (period {record.program.period}), and increments take their "
            "differences to the last full step; an analysis is of neighbouring steps. Analyze the same run without --cache; "
            "`ditto show run` and `ditto rtl replay` show single layers of this one"
        )


def analyze_run(
    directory: Path, denoiser: torch.nn.Module, progress: Callable[[int, int], None] | None = None
) -> Analysis:
    """Computes a recorded run again with golden, from its recorded inputs, and counts.

    What the run recorded of the same elements is compared on the way: a replay of something else is refused.
    """
    record = RunRecord(directory)
    refuse_cached(record)
    steps = list(record)
    if not steps:
        raise AnalysisError(f"{directory}: the run has no whole step; run at least one")
    first = recorded_inputs(directory, record.program, steps[0].step)
    constants = constants_of(record.program, denoiser, first, record.info)
    golden, analyzer = Golden(record.program, constants), Analyzer(record.program, constants)
    for done, step in enumerate(steps, start=1):
        inputs = recorded_inputs(directory, record.program, step.step)
        analyzer.on_inputs(inputs)
        golden.step(step.step, inputs, partial(analyzer.on_value, step.step))
        if progress is not None:
            progress(done, len(steps))
    analysis = analyzer.result()
    check_against(record, analysis)
    return analysis


def check_against(record: RunRecord, analysis: Analysis) -> None:
    """Zero, low and full counts of the record and of the replay, mode by mode, must be the same."""
    rule: LowRule = "mag4" if record.info.low_rule == "mag4" else "twos4"
    kinds: dict[Mode, Kind] = {"original": "activations", "temporal": "temporal", "spatial": "spatial"}
    for s, step in enumerate(record):
        for layer in step.layers:
            for mode, works in layer.works.items():
                counts = analysis.counts[kinds[mode]][s, layer.layer]
                zero, low = int(counts[1]), int(counts[COUNTS.index(rule)])
                found = (zero, low, int(counts[0]) - zero - low)
                recorded = tuple(sum(getattr(w, name) for w in works) for name in ("zero", "low", "full"))
                if found != recorded:
                    where = f"step {step.step}, layer {analysis.names[layer.layer]!r}, {mode}"
                    raise AnalysisError(
                        f"{record.directory}: {where}: the run recorded {recorded} zero, low, full elements, "
                        f"its replay has {found}; "
                        f"the model has changed since the run"
                    )
