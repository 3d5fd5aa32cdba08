# SPDX-License-Identifier: Apache-2.0
"""Cambricon-D's sign-mask: what differences become when they pass SiLU and group norm, and how wrong that is.

Contract (our reading of the technique, as Ditto's paper describes it: no previous input is fetched, one bit is kept)
    SiLU        y_t = y_prev + (x_t − x_prev) where the kept sign of x says positive, y_prev where it says negative;
                the sign bit is updated when the difference changes it
    group norm  y_t = y_prev + (x_t − x_prev) × rstd × γ with the first step's statistics
Both are exact for steps without differences and drift away otherwise. In `pricing/pricer.py` the technique is traffic alone;
designs that use it call themselves approximate.

Interface: `silu_by_mask(xs)`, `group_norm_by_mask(xs, groups)` over [steps, …] -> what the technique computes;
`relative_error(approximate, exact)` per step; `trajectory(…)` makes inputs of a stated similarity from step to step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def silu(x: F64) -> F64:
    y: F64 = x / (1 + np.exp(-x))
    return y


def silu_by_mask(xs: F64) -> F64:
    """Step 0 exact, every later one by differences through the sign's mask."""
    out = np.empty_like(xs)
    out[0] = silu(xs[0])
    for t in range(1, len(xs)):
        out[t] = out[t - 1] + np.where(xs[t - 1] > 0, xs[t] - xs[t - 1], 0)
    return out


def group_norm(x: F64, groups: int) -> F64:
    """[channels, …], no affine part."""
    flat = x.reshape(groups, -1)
    normal = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
    y: F64 = normal.reshape(x.shape)
    return y


def group_norm_by_mask(xs: F64, groups: int) -> F64:
    """Step 0 exact, every later one with the first step's scale on its difference."""
    out = np.empty_like(xs)
    out[0] = group_norm(xs[0], groups)
    spread = np.sqrt(xs[0].reshape(groups, -1).var(1) + 1e-5)
    scale = np.repeat(1 / spread, xs[0].size // groups).reshape(xs[0].shape)
    for t in range(1, len(xs)):
        out[t] = out[t - 1] + (xs[t] - xs[t - 1]) * scale
    return out


def relative_error(approximate: F64, exact: F64) -> F64:
    """Root mean square of the error over that of the exact value, per step."""
    axes = tuple(range(1, exact.ndim))
    error: F64 = np.sqrt(((approximate - exact) ** 2).mean(axes) / (exact**2).mean(axes))
    return error


def trajectory(steps: int, shape: tuple[int, ...], similarity: float, seed: int = 0) -> F64:
    """Unit Gaussians whose neighbours in time have this cosine similarity."""
    rng = np.random.default_rng(seed)
    xs = np.empty((steps, *shape))
    xs[0] = rng.standard_normal(shape)
    for t in range(1, steps):
        xs[t] = similarity * xs[t - 1] + np.sqrt(1 - similarity**2) * rng.standard_normal(shape)
    return xs


if __name__ == "__main__":
    values = trajectory(50, (64, 16, 16), 0.983)
    of_silu = relative_error(silu_by_mask(values), silu(values))
    exact = np.stack([group_norm(v, 8) for v in values])
    of_norm = relative_error(group_norm_by_mask(values, 8), exact)
    print("relative error at the paper's similarity 0.983, 50 steps")
    for step in (1, 5, 10, 25, 49):
        print(f"  step {step:2}: SiLU {of_silu[step]:.1%}, group norm {of_norm[step]:.1%}")
