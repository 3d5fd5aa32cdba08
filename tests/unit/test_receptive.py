# SPDX-License-Identifier: Apache-2.0
"""Which rows a pixel comes from, held against what autograd says of the same network in floating point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ditto_cosim.host.analysis.receptive import pixel_mask, rows_behind
from ditto_cosim.host.compiler.calibrate import calibrate
from ditto_cosim.host.compiler.capture import capture
from ditto_cosim.host.compiler.compiled import compile_denoiser

SIZE = 16


class Net(nn.Module):
    """No statistics over the picture: everything that an element comes from is on a path of values."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2)
        self.norm = nn.LayerNorm(8)
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8, bias=False) for _ in range(3))
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        first = functional.silu(self.conv_in(sample))
        low = self.grouped(functional.silu(self.down(first)))
        if self.attention:
            tokens = self.norm(low.flatten(2).transpose(1, 2))
            heads = (
                f(tokens).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v)
            )
            drawn = functional.scaled_dot_product_attention(*heads)
            low = low + drawn.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (SIZE // 2, SIZE // 2))
        up = functional.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.conv_out(torch.cat([first, up], 1))


def compiled(net: nn.Module) -> tuple[Any, torch.Tensor]:
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    captured = capture(net, {"sample": x})
    return compile_denoiser(captured, calibrate(captured, [{"sample": x}]), steps=1).program, x


def felt(net: Net, x: torch.Tensor, entry: int, row: int, column: int) -> dict[str, np.ndarray[Any, Any]]:
    """Layer -> rows whose results the pixel's gradient meets."""
    results: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, result: torch.Tensor) -> None:
            result.retain_grad()
            results[name] = result

        return hook

    hooks = [
        m.register_forward_hook(keep(n))
        for n, m in net.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    net(x)[entry, :, row, column].sum().backward()
    for hook in hooks:
        hook.remove()
    found = {}
    for name, result in results.items():
        if result.grad is None:
            continue
        met = result.grad != 0
        if met.ndim == 4:
            groups = net.get_submodule(name).groups
            met = met.unflatten(1, (groups, -1)).any(2).transpose(0, 1)
        else:
            met = met.any(-1)
        found[name] = met.reshape(-1).numpy()
    return found


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 10), (15, 8)])
def test_rows_behind_a_pixel_are_those_that_its_gradient_meets(
    attention: bool, row: int, column: int
) -> None:
    torch.manual_seed(0)
    net = Net(attention).eval()
    program, x = compiled(net)
    value = program.outputs["sample"] if "sample" in program.outputs else next(iter(program.outputs.values()))
    reach = rows_behind(program, {value: pixel_mask(program.values[value], row, column, [1])})
    names = [command.name for command in program.layers]
    expected = felt(net, x, 1, row, column)
    for name, rows in expected.items():
        assert np.array_equal(reach[names.index(name)], rows), name
    assert set(expected) == {n for n in names if not n.endswith(("qk", "pv"))}


def test_rows_at_the_pixels_own_place() -> None:
    torch.manual_seed(0)
    program, _ = compiled(Net(True).eval())
    value = next(iter(program.outputs.values()))
    own = rows_behind(program, {value: pixel_mask(program.values[value], 7, 10, [1])}, own=True)
    names = [command.name for command in program.layers]
    whole, half = SIZE * SIZE + 7 * SIZE + 10, SIZE * SIZE // 4 + 3 * SIZE // 2 + 5
    at = {
        name: np.flatnonzero(own[names.index(name)]).tolist()
        for name in ("conv_out", "grouped", "to_q", "to_k")
    }
    assert at["conv_out"] == [whole]
    assert at["grouped"] == [half, 2 * SIZE * SIZE // 4 + half]  # both groups
    assert at["to_q"] == at["to_k"] == [half]
    scores = next(i for i, name in enumerate(names) if name.endswith("qk"))
    tokens = SIZE * SIZE // 4
    assert np.flatnonzero(own[scores]).tolist() == [2 * tokens + half - tokens, 3 * tokens + half - tokens]
