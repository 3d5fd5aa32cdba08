# SPDX-License-Identifier: Apache-2.0
"""How far the instruction set's own functions are from the exact ones; bounds are just above the measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from ditto_cosim.host.reference import golden_ops as ops


def ulps(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest error in units of the last place of the exact value, as binary32 has it."""
    unit = np.spacing(np.abs(exact.numpy()).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(got.double().numpy() - exact.numpy()) / unit))


def line(low: float, high: float, count: int = 400_001) -> torch.Tensor:
    return torch.linspace(low, high, count, dtype=torch.float32)


@pytest.mark.parametrize(
    ("function", "exact", "low", "high", "bound_ulp"),
    [
        (ops.exp32, torch.exp, -87.0, 88.0, 1.0),
        (ops.sigmoid32, torch.sigmoid, -80.0, 80.0, 2.5),
        (ops.silu, lambda x: x * torch.sigmoid(x), -80.0, 80.0, 2.5),
        (lambda x: ops.trig(x, 0), torch.sin, -1000.0, 1000.0, 0.51),
        (lambda x: ops.trig(x, 1), torch.cos, -1000.0, 1000.0, 0.51),
        (lambda x: ops.trig(x, 0), torch.sin, -(2.0**20), 2.0**20, 0.51),
        (ops.log32, torch.log, 1.5, 1e6, 1.0),
        (ops.UNARY["sqrt"], torch.sqrt, 0.0, 1e6, 0.5),
    ],
    ids=["exp", "sigmoid", "silu", "sin", "cos", "sin_far", "log", "sqrt"],
)
def test_isa_function_is_within_its_ulps(
    function: Callable[[torch.Tensor], torch.Tensor],
    exact: Callable[[torch.Tensor], torch.Tensor],
    low: float,
    high: float,
    bound_ulp: float,
) -> None:
    x = line(low, high)
    assert ulps(function(x), exact(x.double())) <= bound_ulp


@pytest.mark.parametrize(
    ("function", "exact", "bound"),
    [
        (ops.silu, functional.silu, 1.5e-6),
        (ops.tanh, torch.tanh, 2e-7),
        (ops.gelu_tanh, lambda x: functional.gelu(x, approximate="tanh"), 1e-6),
        (ops.gelu_erf, functional.gelu, 1e-6),
    ],
    ids=["silu", "tanh", "gelu_tanh", "gelu"],
)
def test_isa_function_is_close_in_absolute_terms(
    function: Callable[[torch.Tensor], torch.Tensor],
    exact: Callable[[torch.Tensor], torch.Tensor],
    bound: float,
) -> None:
    x = line(-16.0, 16.0)
    assert float((function(x).double() - exact(x.double())).abs().max()) <= bound


def test_isa_log_is_close_near_one_and_over_every_magnitude() -> None:
    near = line(0.5, 1.5)
    assert float((ops.log32(near).double() - near.double().log()).abs().max()) <= 1e-7
    every = torch.exp2(line(-140.0, 127.0))
    assert ulps(ops.log32(every), every.double().log()) <= 1.0


@pytest.mark.parametrize("offset", [0.0, 5.0, -40.0])
def test_isa_sums_and_mean_squares_are_close_to_pytorch(offset: float) -> None:
    x = _activations(offset)
    reach = float(x.abs().max())
    total = x.double().sum(-1)
    rounding = float(np.spacing(np.float32(total.abs().max()))) / 2
    assert float((ops.total(x).double() - total).abs().max()) <= x.shape[-1] * 2.0**-31 * reach + rounding
    exact = functional.rms_norm(x.double(), x.shape[-1:], eps=1e-6)
    assert float((ops.rms_norm(x, None, 1e-6).double() - exact).abs().max()) <= 1e-4


def _activations(offset: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(2, 32, 16, 16, generator=generator) * 3 + offset


@pytest.mark.parametrize("offset", [0.0, 5.0, -40.0])
def test_isa_norms_are_close_to_pytorch(offset: float) -> None:
    """Moments see 15 bits of the largest value, so an offset of many deviations costs accuracy."""
    x = _activations(offset)
    bound = 1e-4 + 1e-5 * abs(offset)
    exact = functional.group_norm(x.double(), 8, eps=1e-5)
    assert float((ops.group_norm(x, None, None, 8, 1e-5).double() - exact).abs().max()) <= bound
    exact = functional.layer_norm(x.double(), x.shape[-1:], eps=1e-6)
    assert float((ops.layer_norm(x, None, None, 1e-6).double() - exact).abs().max()) <= bound


def test_isa_softmax_is_within_half_a_step_of_the_probability_ratio() -> None:
    """p is e^(x − max) in steps of 1/127; what attention uses is p ÷ Σp, close to the exact softmax."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(12)) * 2
    p, sums = ops.softmax(x)
    ratio = torch.exp(x.double() - x.double().amax(-1, keepdim=True))
    assert float((p.double() / 127 - ratio).abs().max()) <= 0.5 / 127 + 1e-6
    probabilities = p.double() / sums.double().unsqueeze(-1)
    assert float((probabilities - x.double().softmax(-1)).abs().sum(-1).max()) <= 0.25
    uniform, total = ops.softmax(torch.zeros(1, 256))
    assert float((uniform.double() / total.double()).sub(1 / 256).abs().max()) == 0.0


def test_isa_quantize_is_within_half_a_step() -> None:
    x = line(-12.0, 12.0, 10_001)
    q, params = ops.quantize(x, 0.1, 4, False)
    assert float(((q.double() - 4) * float(params[0]) - x.double()).abs().max()) <= 0.05 * (1 + 1e-4)
