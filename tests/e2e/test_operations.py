# SPDX-License-Identifier: Apache-2.0
"""Operations that diffusers' classes need, one by one: exact on the device in three modes, and still the user's function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as functional
from torch import nn

from ditto_cosim.coverage import check
from ditto_cosim.host.compiler.builder import LoweringError
from ditto_cosim.host.compiler.capture import CaptureError, capture
from ditto_cosim.host.compiler.lower import UnsupportedError, lower


class Between(nn.Module):
    """A function of [2, 6, 8] between two linear layers."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(8, 8), function
        self.rows = nn.Parameter(torch.randn(6, 8))
        self.norm = nn.BatchNorm1d(6)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, sample: torch.Tensor) -> Any:
        return self.function(self, self.first(sample))


def pictures(x: torch.Tensor) -> Any:
    """[2, 6, 8] as pictures [2, 3, 4, 4]."""
    return x.reshape(2, 3, 4, 4)


def rotated(m: int, x: torch.Tensor) -> Any:
    """A rotary embedding by complex numbers."""
    turns = torch.polar(torch.ones(6, 4), torch.arange(24.0).reshape(6, 4) / 10)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * turns).flatten(-2)


def written(m: int, x: torch.Tensor) -> Any:
    """A rotary embedding written into its place, as functionalization leaves it."""
    out = torch.empty_like(x)
    out[..., 0::2] = x[..., 1::2] * -1
    out[..., 1::2] = x[..., 0::2]
    return out


OPERATIONS = {
    "rsub": lambda m, x: 1 - x,
    "add with alpha": lambda m, x: torch.add(x, m.rows, alpha=0.5),
    "clamp": lambda m, x: x.clamp(-0.5, 0.7),
    "pow": lambda m, x: x.pow(3) + x.abs().pow(1.5) + (x * x + 1).pow(-0.5) + 10000 ** (x / 8),
    "rsqrt": lambda m, x: torch.rsqrt(x * x + 0.1),
    "mish": lambda m, x: functional.mish(5 * x),
    "softplus": lambda m, x: functional.softplus(30 * x) + functional.logsigmoid(x),
    "leaky_relu, elu, hardswish": lambda m, x: (
        functional.leaky_relu(x, 0.2) + functional.elu(x) + functional.hardswish(4 * x)
    ),
    "erf": lambda m, x: torch.erf(x) + torch.erf(x * 0),
    "unbind and stack": lambda m, x: torch.stack([b for a in x.unbind(0) for b in (a, -a)]),
    "outer": lambda m, x: torch.outer(x[0, 0], torch.arange(1.0, 4.0)),
    "mean and std": lambda m, x: (x - x.mean((0, 2), keepdim=True)) / x.std(-1, keepdim=True),
    "sum": lambda m, x: x.sum(1) + x.sum(),
    "vector norm": lambda m, x: functional.normalize(x, dim=-1) * torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "amax": lambda m, x: x.amax(-1, keepdim=True) - x.amin((0, 1), keepdim=True),
    "rms_norm": lambda m, x: functional.rms_norm(x, (6, 8)) + functional.rms_norm(x, (8,), m.rows[0]),
    "layer norm over two axes": lambda m, x: functional.layer_norm(x, (6, 8)),
    "batch norm": lambda m, x: m.norm(x),
    "softmax over rows": lambda m, x: x.softmax(1),
    "attention": lambda m, x: functional.scaled_dot_product_attention(x, x, m.rows.expand(2, 6, 8)),
    "causal attention": lambda m, x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "grouped-query attention": lambda m, x: functional.scaled_dot_product_attention(
        x.unflatten(1, (2, 3)), x[:, None, :3], x[:, None, 3:], enable_gqa=True
    ),
    "masked attention": lambda m, x: functional.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.arange(36).reshape(6, 6) % 5 > torch.arange(6)[:, None] - 1
    ),
    "baddbmm": lambda m, x: torch.baddbmm(m.rows @ m.rows.T, x, x.transpose(1, 2), beta=0.5, alpha=0.3),
    "addmm": lambda m, x: torch.addmm(m.rows[0], x[0], torch.eye(8) * 0.5 + 0.1),
    "matmul with a parameter": lambda m, x: x @ m.rows.T + (m.rows @ x.transpose(1, 2)),
    "matmul of other ranks": lambda m, x: (x @ x[0].T) * (x @ m.rows[0])[..., None] + torch.matmul(x[0, 0], x[1, 1]),
    "matmul of one term": lambda m, x: x[:, :, :1] @ x[:, :1, :],
    "einsum": lambda m, x: torch.einsum("bnc,mc->bnm", x, m.rows) + torch.einsum("bnc,bmc->bnm", x, x),
    "einsum without a sum": lambda m, x: torch.einsum("...n,d->...nd", x, torch.arange(1.0, 4.0)),
    "einsum of three": lambda m, x: torch.einsum("bnc,cd,bmd->bnm", x, m.rows.T @ m.rows / 8, x),
    "where and masks": lambda m, x: torch.where((x > 0) & ~(x >= 0.5) | (x != x), x, -1.0).masked_fill(x < -0.3, 2.0),
    "zeros_like": lambda m, x: torch.cat([torch.zeros_like(x), x, torch.ones_like(x)], 1),
    "complex rotation": rotated,
    "writing in place": written,
    "index": lambda m, x: x[:, [3, 0, 0, 5]] + x.flip(1)[:, :4] + x.roll(2, 1)[:, torch.tensor([1, 2, 4, 0])],
    "corners": lambda m, x: x.tril() + x.triu(1) * 0.5 + torch.lerp(x, x.exp(), 0.3),
    "added_products": lambda m, x: torch.addcmul(x, x, x, value=0.5) + torch.addcdiv(x, x, 2 + x * x),
    "units": lambda m, x: (
        functional.selu(x) + functional.celu(x, 0.7) + functional.prelu(x, m.rows[:, 0]) - x.logsumexp(-1, True)
    ),
    "instance_norm": lambda m, x: functional.instance_norm(pictures(x)).reshape(2, 6, 8),
    "repeat": lambda m, x: x.repeat(1, 2, 2) + x.repeat_interleave(2, 1).repeat_interleave(2, 2),
    "repeat_five_axes": lambda m, x: x.reshape(2, 3, 2, 4, 2).repeat(1, 1, 2, 1, 1).flatten(2) + x.sum(),
    "pads": lambda m, x: (
        functional.pad(x, (2, 1), "reflect") + functional.pad(x, (1, 2), "replicate") + functional.pad(x, (3, 0), "circular")
    ),
    "negative pad": lambda m, x: functional.pad(x, (-1, 1, 2, -2), value=0.5),
    "pixel_shuffle": lambda m, x: functional.pixel_shuffle(x.reshape(2, 12, 2, 2), 2),
    "pixel_unshuffle": lambda m, x: functional.pixel_unshuffle(pictures(x), 2),
    "nearest, not a multiple": lambda m, x: functional.interpolate(pictures(x), (6, 7)),
    "nearest by a factor": lambda m, x: functional.interpolate(pictures(x), scale_factor=1.3),
    "bilinear": lambda m, x: functional.interpolate(pictures(x), (7, 3), mode="bilinear", align_corners=True),
    "bicubic": lambda m, x: functional.interpolate(pictures(x), (3, 9), mode="bicubic"),
    "antialiased": lambda m, x: functional.interpolate(pictures(x), (2, 3), mode="bilinear", antialias=True),
    "pooling": lambda m, x: (
        functional.avg_pool2d(pictures(x), 3, 1) + functional.max_pool2d(pictures(x), 2, 2)
    ).mean() * functional.adaptive_avg_pool2d(pictures(x), 2),
    "glu": lambda m, x: functional.glu(x, -1),
    "axes": lambda m, x: x.movedim(1, -1).swapaxes(1, 2) + torch.linalg.norm(x, dim=-1, keepdim=True),
    "places": lambda m, x: (
        x.max(-1).values[..., None] + x.argmin(1, keepdim=True) / 8 + x.cumsum(1)
        + functional.one_hot(x.argmax(2), 8).float() + torch.bucketize(x, torch.tensor([-0.5, 0.0, 1.0])) / 4
    ),
    "log_softmax": lambda m, x: (40 * x).log_softmax(-1) / 40,
    "parts of numbers": lambda m, x: (
        torch.remainder(x, 0.7) + torch.fmod(x, 0.9) + torch.floor_divide(x, 0.5) + torch.frac(x) + torch.nan_to_num(x)
    ),
    "hyperbolic": lambda m, x: torch.sinh(x) - torch.cosh(x) + torch.asinh(x) + torch.hypot(x, m.rows) + torch.logaddexp(x, -x),
    "patches": lambda m, x: (
        functional.fold(2 * functional.unfold(pictures(x), 2, stride=2), 4, 2, stride=2)
        + functional.unfold(pictures(x), 3, padding=1)[:, :3, :16].reshape(2, 3, 4, 4)
    ),
    "area": lambda m, x: functional.interpolate(pictures(x), (3, 5), mode="area"),
    "bilinear form": lambda m, x: functional.bilinear(x, x, m.rows[:, :, None] * m.rows[:, None, :] / 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_are_unrolled(kind: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(nn, kind)(8, 4, batch_first=True, bidirectional=True)

        def forward(self, sample: torch.Tensor) -> Any:
            return self.inner(sample)[0]

    torch.manual_seed(1)
    found = check("recurrent", Recurrent(), {"sample": torch.randn(2, 3, 8)})
    assert found.exact, found.missing
    assert found.snr_db > 25


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_exact_and_the_users_own(name: str) -> None:
    torch.manual_seed(1)
    found = check(name, Between(OPERATIONS[name]), {"sample": torch.randn(2, 6, 8)})
    assert found.exact, found.missing
    assert found.snr_db > 25


def test_batch_norm_is_folded_into_the_convolution_before_it() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    module[1].running_mean.uniform_(-1, 1)
    module[1].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        module[1].weight.uniform_(-2, 2)
    found = check("folded", module, {"input": torch.randn(2, 3, 6, 6)})
    assert found.exact
    assert found.snr_db > 30
    assert found.commands == 3  # quantize, conv2d, dequantize


def test_a_query_that_may_look_nowhere_draws_nothing() -> None:
    """PyTorch's attention gives it 0, and so does the device; a softmax of its own would give NaN."""
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    module = Between(lambda m, x: functional.scaled_dot_product_attention(x, x, x, attn_mask=m.mask))
    module.register_buffer("mask", mask)
    torch.manual_seed(1)
    found = check("masked", module, {"sample": torch.randn(2, 6, 8)})
    assert found.exact, found.missing
    assert found.snr_db > 25


def test_a_mask_given_as_truth_values_is_not_added() -> None:
    """A mask of truth values says where attention may look; added to the scores it would say next to nothing."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor, attention_mask: Any) -> Any:
            q = self.to_q(sample)
            return functional.scaled_dot_product_attention(q, q, q, attn_mask=attention_mask[:, None])

    torch.manual_seed(1)
    mask = torch.tensor([[True, True, False, True, False, False], [True, False, True, True, True, False]])
    found = check("masked", Masked(), {"sample": torch.randn(2, 6, 8), "attention_mask": mask})
    assert found.exact, found.missing
    assert found.snr_db > 25


def test_lower_names_everything_that_is_missing_at_once() -> None:
    module = Between(lambda m, x: torch.cumsum(x, 1) + m.first(x.sort(-1).values) + torch.cumsum(x, 2))
    with pytest.raises(UnsupportedError, match=r"aten.cumsum.*aten.sort"):
        lower(capture(module.eval(), {"sample": torch.randn(2, 6, 8)}), None)


def test_lower_refuses_more_axes_than_a_tensor_has() -> None:
    module = Between(lambda m, x: m.first(x.reshape(1, 1, 1, 1, 1, 1, 2, 6, 8)))
    with pytest.raises(LoweringError, match=r"shape \(1, 1, 1, 1, 1, 1, 2, 6, 8\) has 9 axes; .* up to 8"):
        lower(capture(module.eval(), {"sample": torch.randn(2, 6, 8)}), None)


# --- shapes that a mask decides -----------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Goes on with as many tokens as its mask leaves open, as Mochi does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, sample: torch.Tensor, attention_mask: Any) -> Any:
        open_tokens = attention_mask[0].nonzero().flatten()
        return self.first(sample[:, open_tokens]) / attention_mask.sum().item()


def test_capture_holds_the_mask_that_decides_shapes() -> None:
    mask = torch.tensor([[True, False, True, True]])
    given = {"sample": torch.randn(1, 4, 8), "attention_mask": mask}
    captured = capture(Counting().eval(), given)
    assert captured.inputs == ("sample",)
    assert captured.held.keys() == {"attention_mask"}
    assert captured.holds(given)
    assert not captured.holds({**given, "attention_mask": ~mask})
    found = check("counting", Counting(), given)
    assert found.exact, found.missing
    assert found.snr_db > 25


def _written_by_numbers(module: Any, sample: torch.Tensor, mask: torch.Tensor) -> Any:
    """As Lumina2 numbers its tokens."""
    count = mask.sum().item()
    places = torch.zeros(sample.shape[1], dtype=torch.int64)
    places[:count] = torch.arange(count)
    places[count:] = count
    return module.first(sample + module.table[places])


def _written_between_uses(module: Any, sample: torch.Tensor, mask: torch.Tensor) -> Any:
    count = mask.sum().item()
    places = torch.zeros(sample.shape[1], dtype=torch.int64)
    early = module.first(sample + module.rows[places])
    places[count:] = 1
    return early + module.first(sample * module.rows[places])


def _written_from_weights(module: Any, sample: torch.Tensor, mask: torch.Tensor) -> Any:
    count = mask.sum().item()
    rows = torch.zeros(sample.shape[1], 8)
    rows[:count] = module.rows[:count]
    return module.first(sample + rows)


@pytest.mark.parametrize("function", [_written_by_numbers, _written_between_uses, _written_from_weights])
def test_capture_follows_what_is_written_into_constants(function: Any) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.table = nn.Linear(8, 8), torch.randn(6, 8)
            self.rows = nn.Parameter(torch.randn(6, 8))

        def forward(self, sample: torch.Tensor, attention_mask: Any) -> Any:
            return function(self, sample, attention_mask)

    torch.manual_seed(1)
    mask = torch.tensor([True, False, True, True, False, False])
    given = {"sample": torch.randn(1, 6, 8), "attention_mask": mask}
    module = Writing().eval()
    captured = capture(module, given)
    assert captured.held.keys() == {"attention_mask"}
    (found,) = captured.module(*captured.interpreter_args(given))
    torch.testing.assert_close(found, module(**given))


def test_capture_refuses_shapes_that_a_changing_input_decides() -> None:
    class Choosing(nn.Module):
        def forward(self, sample: torch.Tensor) -> Any:
            return sample[sample[:, 0] > 0]

    with pytest.raises(CaptureError, match="depends on what sample hold"):
        capture(Choosing().eval(), {"sample": torch.randn(5, 4)})


def test_capture_leaves_what_a_module_keeps_for_itself() -> None:
    class Helper:
        kept: torch.Tensor | None = None

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.helper = nn.Linear(8, 8), Helper()
            self.kept: torch.Tensor | None = None

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            if self.kept is None:
                self.kept = self.helper.kept = torch.arange(8.0)
            return self.first(sample) * self.kept

    module = Keeping().eval()
    capture(module, {"sample": torch.randn(2, 8)})
    assert module.kept is None
    assert module.helper.kept is None
    assert module(torch.ones(2, 8)).isfinite().all()


class Remembering(nn.Module):
    """Does something else when it is called again, as hand-made caches of activations do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.kind = nn.Linear(8, 8), kind
        self.calls = 0
        self.before: Any = None
        self.tables: dict[int, torch.Tensor] = {}

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.first(sample)
        if self.kind == "counts":
            self.calls += 1
            return found * 2 if self.calls % 3 == 0 else found
        if self.kind == "reuses":
            found, self.before = found if self.before is None else found + self.before, found
        elif self.kind == "shows":
            self.tables[0] = found.softmax(-1)
        elif 8 not in self.tables:
            self.tables[8] = torch.arange(8.0)
        return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("counts", "keeps calls from one call to the next, and its result depends on it"),
        ("reuses", "keeps before from one call to the next"),
        ("shows", "keeps its own activations in tables for others to read"),
    ],
)
def test_capture_refuses_what_a_module_keeps_from_call_to_call(kind: str, words: str) -> None:
    module = Remembering(kind).eval()
    with pytest.raises(CaptureError, match=words):
        capture(module, {"sample": torch.randn(2, 8)})
    assert (module.calls, module.before, module.tables) == (0, None, {})


def test_capture_lets_a_module_remember_a_table() -> None:
    module = Remembering("looks up").eval()
    capture(module, {"sample": torch.randn(2, 8)})
    assert module.tables == {}
