# SPDX-License-Identifier: Apache-2.0
"""Capture and lowering: names, merging, static analysis, refusals; published sizes on `meta`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ditto_cosim.host.compiler.capture import CaptureError, capture
from ditto_cosim.host.compiler.lower import LoweringError, lower
from ditto_cosim.host.compiler.points import quantization_points
from ditto_cosim.host.compiler.quantize import Grid, QuantizationError
from ditto_cosim.protocol.program import Program


class Attention(nn.Module):
    """q, k, v share their input; k and v come from the context if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 8)

    def forward(
        self, sample: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.norm(sample)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            f(y).unflatten(-1, (2, 4)).transpose(1, 2)
            for f, y in ((self.q, x), (self.k, context), (self.v, context))
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return sample + self.out(y.transpose(1, 2).flatten(2))


def program(module: nn.Module, **inputs: Any) -> Program:
    return lower(capture(module.eval(), inputs), None).program


def test_lower_attention_becomes_two_products_named_by_module() -> None:
    found = program(Attention(), sample=torch.randn(1, 5, 8))
    assert [c.name.rpartition(".")[2] for c in found.layers] == ["q", "k", "v", "qk", "pv", "out"]
    assert [c.op for c in found.layers].count("matmul") == 2


def test_lower_shares_one_quantizer_between_layers_with_one_input() -> None:
    found = program(Attention(), sample=torch.randn(1, 5, 8))
    sources = {c.operands[0] for c in found.layers if c.op == "linear"}
    assert len(sources) == 2  # q, k, v read one quantized tensor, out another


def test_lower_knows_products_with_an_unchanging_context() -> None:
    found = program(Attention(), sample=torch.randn(1, 5, 8), encoder_hidden_states=torch.randn(1, 3, 8))
    assert found.static_inputs == {"encoder_hidden_states"}
    assert all(c.attrs["static_b"] for c in found.layers if c.op == "matmul")
    moving = program(Attention(), sample=torch.randn(1, 5, 8))
    assert not any(c.attrs["static_b"] for c in moving.layers if c.op == "matmul")


def test_lower_static_analysis_sees_what_is_linear() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(self.a(sample))))

    found = program(Chain(), sample=torch.randn(2, 8))
    assert found.skip_difference == {"b"}  # behind a, nothing non-linear
    assert found.skip_summation == {"a"}  # only b reads it


def test_lower_folds_constants_and_drops_what_nobody_reads() -> None:
    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            unused = torch.exp(sample)
            scale = torch.exp(torch.arange(8, dtype=torch.float32) / 8)
            return self.a(sample * scale) + 0 * unused.shape[0]

    found = program(Folds(), sample=torch.randn(2, 8))
    assert "exp" not in {c.op for c in found.commands}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: torch.sort(x, 1).values, "sort"),
        (lambda x: torch.gather(x, 1, x.long()), "gather by a computed index"),
    ],
)
def test_lower_refuses_by_name_what_the_accelerator_lacks(
    function: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return function(self.a(sample))

    with pytest.raises((LoweringError, QuantizationError), match=words):
        program(Odd(), sample=torch.randn(8, 8))


def test_lower_refuses_k_that_could_overflow() -> None:
    with pytest.raises(LoweringError, match="65793"):
        program(nn.Sequential(nn.Linear(65_794, 1)), input=torch.randn(1, 65_794))


def test_lower_says_which_point_has_no_scale() -> None:
    captured = capture(nn.Sequential(nn.Linear(8, 8)).eval(), {"input": torch.randn(2, 8)})
    (point,) = quantization_points(captured)
    with pytest.raises(QuantizationError, match=point):
        lower(captured, {})
    made = lower(captured, {point: Grid("static", (0.5,), (3,))}).program
    (quantizer,) = (c for c in made.commands if c.op == "quantize")
    assert quantizer.attrs["scales"] == (0.5,)
    assert quantizer.attrs["zero_points"] == (3,)


def test_capture_says_what_export_refused() -> None:
    class Branches(nn.Module):
        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            return sample if sample.sum() > 0 else -sample

    with pytest.raises(CaptureError, match="Branches"):
        capture(Branches(), {"sample": torch.randn(2, 2)})
