# SPDX-License-Identifier: Apache-2.0
"""Operations that are taken apart at capture, before anything is calibrated or lowered.

Attention becomes two matrix products and a softmax; every convolution a `conv2d`: of height 1, over frames laid side by side
in the channels, or with zeros between the pixels; contractions become `matmul`. What this file does not do: name operations
that only the accelerator lacks (`rules/`), or know of grids. What other operations are made of stands in `composed.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from ditto_cosim.host.compiler.composed import COMPOSED

Sizes = Sequence[int]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """A query that may look nowhere draws 0, as PyTorch's own does."""
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if attn_mask is None:
        return scores.softmax(-1) @ v
    masked = attn_mask.dtype == torch.bool
    scores = torch.where(attn_mask, scores, -math.inf) if masked else scores + attn_mask
    probabilities: Tensor = torch.ops.aten._safe_softmax.default(scores, -1)
    return probabilities @ v


# --- convolutions -------------------------------------------------------------------------------------------------------


def _spread(value: int | Sizes, axes: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * axes if len(sizes) == 1 else sizes


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    """A convolution over one, two or three axes by one of two."""
    if len(stride) == 1:
        wide = functional.conv2d(
            x.unsqueeze(2), weight.unsqueeze(2), bias, (1, *stride), (0, *padding), (1, *dilation), groups
        )
        return wide.squeeze(2)
    if len(stride) == 2:
        return functional.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)
    if padding[0]:
        x = functional.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
    batch, channels, frames, height, width = x.shape
    taps = weight.shape[2]
    out_frames = (frames - dilation[0] * (taps - 1) - 1) // stride[0] + 1
    last = stride[0] * (out_frames - 1) + 1
    shifted = [x[:, :, u : u + last : stride[0]] for u in range(0, taps * dilation[0], dilation[0])]
    if groups == 1:
        joined = torch.cat(shifted, 1) if taps > 1 else shifted[0]
    else:
        apart = [part.unflatten(1, (groups, channels // groups)) for part in shifted]  # type: ignore[no-untyped-call]  # torch leaves it untyped
        joined = torch.stack(apart, 2).flatten(1, 3)
    pictures = joined.transpose(1, 2).reshape(batch * out_frames, channels * taps, height, width)
    kernel = weight.transpose(1, 2).reshape(weight.shape[0], -1, *weight.shape[3:])
    y = functional.conv2d(
        pictures, kernel, bias, tuple(stride[1:]), tuple(padding[1:]), tuple(dilation[1:]), groups
    )
    found: Tensor = y.unflatten(0, (batch, out_frames)).transpose(1, 2)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return found


def convolution(axes: int) -> Callable[..., Tensor]:
    """`conv1d` and `conv3d`."""

    def decomposed(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sizes = (1,),
        padding: Sizes = (0,),
        dilation: Sizes = (1,),
        groups: int = 1,
    ) -> Tensor:
        single = x.dim() == axes + 1
        step, border, gap = (_spread(v, axes) for v in (stride, padding, dilation))
        y = convolve(x.unsqueeze(0) if single else x, weight, bias, step, border, gap, groups)
        return y.squeeze(0) if single else y

    return decomposed


def padded_convolution(axes: int) -> Callable[..., Tensor]:
    """`padding="same"` or `"valid"`."""

    def decomposed(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sizes = (1,),
        padding: str = "valid",
        dilation: Sizes = (1,),
        groups: int = 1,
    ) -> Tensor:
        dilation = _spread(dilation, axes)
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            borders = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
            x = functional.pad(x, borders)
        return convolve(x, weight, bias, _spread(stride, axes), (0,) * axes, dilation, groups)

    return decomposed


def transposed_convolution(axes: int) -> Callable[..., Tensor]:
    """A convolution of the input with zeros between its pixels by the kernel turned around."""

    def decomposed(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sizes = (1,),
        padding: Sizes = (0,),
        output_padding: Sizes = (0,),
        groups: int = 1,
        dilation: Sizes = (1,),
    ) -> Tensor:
        stride, padding, output_padding, dilation = (
            _spread(v, axes) for v in (stride, padding, output_padding, dilation)
        )
        for axis in range(axes):
            x = _between_zeros(x, axis + 2, stride[axis], output_padding[axis])
        borders = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
        for axis, border in enumerate(borders):
            if border < 0:
                x = x.narrow(axis + 2, -border, x.shape[axis + 2] + 2 * border)
        flipped = weight.flip(tuple(range(2, axes + 2)))
        turned = flipped.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return convolve(x, turned, bias, (1,) * axes, [max(b, 0) for b in borders], dilation, groups)

    return decomposed


def _between_zeros(x: Tensor, axis: int, stride: int, more: int) -> Tensor:
    """`stride − 1` zeros between neighbours on one axis, and `more` behind the last."""
    length = x.shape[axis]
    if stride > 1:
        wide = x.unsqueeze(axis + 1)
        zeros = torch.zeros((*wide.shape[: axis + 1], stride - 1, *wide.shape[axis + 2 :]))
        x = torch.cat([wide, zeros], axis + 1).flatten(axis, axis + 1)
    end = stride * (length - 1) + 1 + more
    if end > x.shape[axis]:
        return torch.cat([x, torch.zeros((*x.shape[:axis], end - x.shape[axis], *x.shape[axis + 1 :]))], axis)
    return x.narrow(axis, 0, end)


# --- contractions -------------------------------------------------------------------------------------------------------


def einsum(equation: str, operands: Sequence[Tensor], path: Any = None) -> Tensor:
    """Two operands at a time, each time one matrix product; where nothing is summed over, a product of elements."""
    inputs, output = _subscripts(equation, [t.dim() for t in operands])
    terms = list(zip(inputs, operands, strict=True))
    while len(terms) > 1:
        (first, a), (second, b), *rest = terms
        later = set(output).union(*(subscripts for subscripts, _ in rest))
        kept = [c for c in dict.fromkeys(first + second) if c in later]
        terms = [("".join(kept), _contract(first, a, second, b, kept)), *rest]
    ((letters, result),) = terms
    letters, result = _sum_out(letters, result, set(output))
    return result.permute([letters.index(c) for c in output])


def _subscripts(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """An equation's subscripts without ellipses."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    free = [c for c in map(chr, range(ord("A"), ord("Z") + 1)) if c not in equation]
    width = max(
        (r - len(i.replace("...", "")) for i, r in zip(inputs, ranks, strict=True) if "..." in i), default=0
    )
    letters = "".join(free[:width])
    inputs = [
        i.replace("...", letters[width - (r - len(i.replace("...", ""))) :] if "..." in i else "")
        for i, r in zip(inputs, ranks, strict=True)
    ]
    if not arrow:
        counted = "".join(inputs)
        output = letters + "".join(sorted(c for c in set(counted) - set(letters) if counted.count(c) == 1))
    return inputs, output.replace("...", letters)


def _sum_out(letters: str, x: Tensor, wanted: set[str]) -> tuple[str, Tensor]:
    """Without the axes that nobody else has; a letter that stands twice is refused."""
    if len(set(letters)) != len(letters):
        raise NotImplementedError(f"einsum takes the diagonal of {letters}")
    gone = [i for i, c in enumerate(letters) if c not in wanted]
    return "".join(c for c in letters if c in wanted), x.sum(gone) if gone else x


def _contract(first: str, a: Tensor, second: str, b: Tensor, kept: Sequence[str]) -> Tensor:
    first, a = _sum_out(first, a, set(kept) | set(second))
    second, b = _sum_out(second, b, set(kept) | set(first))
    both = [c for c in first if c in second]
    batch, summed = [c for c in both if c in kept], [c for c in both if c not in kept]
    rows, columns = [c for c in first if c not in both], [c for c in second if c not in both]
    a, b = (
        t.permute([letters.index(c) for c in (*batch, *own, *summed)])
        for letters, t, own in ((first, a, rows), (second, b, columns))
    )
    size = {
        **dict(zip((*batch, *rows, *summed), a.shape, strict=True)),
        **dict(zip((*batch, *columns), b.shape, strict=False)),
    }
    lead = [max(x, y) for x, y in zip(a.shape[: len(batch)], b.shape[: len(batch)], strict=True)]
    if not summed:
        left = a.reshape(*a.shape, *(1,) * len(columns))
        right = b.reshape(*b.shape[: len(batch)], *(1,) * len(rows), *b.shape[len(batch) :])
        product = left * right
    else:
        depth = math.prod(size[c] for c in summed)
        left = a.reshape(*a.shape[: len(batch)], math.prod(size[c] for c in rows), depth)
        right = b.reshape(*b.shape[: len(batch)], math.prod(size[c] for c in columns), depth)
        product = (left @ right.transpose(-1, -2)).reshape(*lead, *(size[c] for c in (*rows, *columns)))
    letters = [*batch, *rows, *columns]
    return product.permute([letters.index(c) for c in kept])


def baddbmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = torch.bmm(a, b) * alpha
    return product if beta == 0 else product + (x if beta == 1 else x * beta)


def addmm(x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = a @ b if alpha == 1 else (a @ b) * alpha
    return product if beta == 0 else product + (x if beta == 1 else x * beta)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b


_aten = torch.ops.aten
# --- what is made of others ---------------------------------------------------------------------------------------------


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    axes = [-1 if axis == min(1, x.dim() - 1) else 1 for axis in range(x.dim())]
    return torch.where(x > 0, x, x * (weight.reshape(axes) if weight.numel() > 1 else weight.reshape(())))


def selu(x: Tensor) -> Tensor:
    alpha, scale = 1.6732632423543772, 1.0507009873554805
    return scale * torch.where(x > 0, x, alpha * (x.clamp(max=0).exp() - 1))


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return torch.where(x > 0, x, alpha * ((x.clamp(max=0) / alpha).exp() - 1))


def instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    if not use_input_stats:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    return functional.group_norm(x, x.shape[1], weight, bias, eps)


def _corner(lower: bool) -> Callable[..., Tensor]:
    def cut(x: Tensor, diagonal: int = 0) -> Tensor:
        ahead = torch.arange(x.shape[-1]) - torch.arange(x.shape[-2]).unsqueeze(1)
        inside = ahead <= diagonal if lower else ahead >= diagonal
        return x & inside if x.dtype == torch.bool else torch.where(inside, x, 0.0)

    return cut


def logsumexp(x: Tensor, dim: Sizes, keepdim: bool = False) -> Tensor:
    axes = tuple(dim)
    largest = x.amax(axes, keepdim=True)
    total = (x - largest).exp().sum(axes, keepdim=True).log() + largest
    found: Tensor = total if keepdim else total.squeeze(axes)
    return found


def lerp(x: Tensor, end: Tensor, weight: Any) -> Tensor:
    y: Tensor = x + weight * (end - x)
    return y


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    y: Tensor = x + value * (a * b)
    return y


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    y: Tensor = x + value * (a / b)
    return y


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.scaled_dot_product_attention.default: attention,
    _aten.conv1d.default: convolution(1),
    _aten.conv3d.default: convolution(3),
    _aten.conv1d.padding: padded_convolution(1),
    _aten.conv2d.padding: padded_convolution(2),
    _aten.conv3d.padding: padded_convolution(3),
    _aten.conv_transpose1d.default: transposed_convolution(1),
    _aten.conv_transpose2d.input: transposed_convolution(2),
    _aten.conv_transpose3d.input: transposed_convolution(3),
    _aten.einsum.default: einsum,
    _aten.baddbmm.default: baddbmm,
    _aten.addmm.default: addmm,
    _aten.outer.default: outer,
    _aten.prelu.default: prelu,
    _aten.selu.default: selu,
    _aten.celu.default: celu,
    _aten.instance_norm.default: instance_norm,
    _aten.tril.default: _corner(lower=True),
    _aten.triu.default: _corner(lower=False),
    _aten.logsumexp.default: logsumexp,
    _aten.lerp.Scalar: lerp,
    _aten.lerp.Tensor: lerp,
    _aten.addcmul.default: addcmul,
    _aten.addcdiv.default: addcdiv,
    **COMPOSED,
}
"""As `ExportedProgram.run_decompositions` takes them, too."""


# --- of a graph ---------------------------------------------------------------------------------------------------------


def take_graph_apart(graph: fx.Graph) -> bool:
    """Puts what an operation is made of in its place, throughout an exported graph. Tracing the whole anew would do the same in
    three times the time; False, and nothing done, where it has to be: something is written in place, a graph lies inside, a
    size is not known yet."""
    if any(_writes(node) or _is_open(node) for node in graph.nodes):
        return False
    parts: dict[fx.Node, fx.Graph] = {}
    for node in graph.nodes:
        if node.target in DECOMPOSITIONS:
            parts[node] = inside = _traced(node)
            if any(n.op == "get_attr" or _writes(n) for n in inside.nodes):
                return False
    for node, inside in parts.items():
        operands = iter(_operands(node))
        known = {n: next(operands) for n in inside.find_nodes(op="placeholder")}
        with graph.inserting_before(node):
            for part in inside.nodes:
                if part.op == "call_function":
                    known[part] = copy = graph.node_copy(part, known.__getitem__)
                    copy.meta = {**node.meta, "val": part.meta["val"]}
                elif part.op == "output":
                    _put_in_place(node, part.args[0], known)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    return True


def _put_in_place(node: fx.Node, made: Any, known: dict[fx.Node, fx.Node]) -> None:
    """What an operation's parts made, in place of its result, or of each of its results."""
    if isinstance(made, fx.Node):
        node.replace_all_uses_with(known[made])
        return
    for user in list(node.users):  # several results are had by number
        user.replace_all_uses_with(known[made[user.args[1]]])
        user.graph.erase_node(user)


def _traced(node: fx.Node) -> fx.Graph:
    """One operation's decomposition, its tensors the placeholders."""
    operands = [n.meta["val"] for n in _operands(node)]
    leaves, structure = pytree.tree_flatten((node.args, node.kwargs))

    def run(*tensors: Tensor) -> Any:
        given = iter(tensors)
        args, kwargs = pytree.tree_unflatten(
            [next(given) if isinstance(leaf, fx.Node) else leaf for leaf in leaves], structure
        )
        return DECOMPOSITIONS[node.target](*args, **kwargs)

    mode = next(t.fake_mode for t in operands if isinstance(t, FakeTensor))
    with mode:
        return make_fx(run, decomposition_table=DECOMPOSITIONS, pre_dispatch=True)(*operands).graph


def _operands(node: fx.Node) -> list[fx.Node]:
    leaves: list[Any] = pytree.tree_leaves((node.args, node.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, fx.Node)]


def _is_open(node: fx.Node) -> bool:
    made = node.meta.get("val")
    if isinstance(made, Tensor) and not all(type(size) is int for size in made.shape):
        return True
    return node.op == "get_attr" or isinstance(node.target, torch._ops.HigherOrderOperator)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable) and node.target is not _aten.detach_.default
