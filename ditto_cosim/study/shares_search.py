# SPDX-License-Identifier: Apache-2.0
"""Can seven models have the bit-width shares that the paper's averages and its BOPs both ask for?

C09–C14 give mean shares of zero, low and full elements for activations, spatial and temporal differences;
C15–C17 give mean BOPs ratios (and two models' own). `closest_shares` looks for seven models' shares that
satisfy all of them and returns by how much the best misses its worst constraint. Run as `python -m
ditto_cosim.study.shares_search`.

What it does not do: prove. It is a search by gradient from many random starts; BOPs are taken per element.
"""

from __future__ import annotations

import torch

MODELS = 7
ZERO, ZERO_OVER_ACT, ZERO_OVER_SPATIAL = 0.4448, 0.2612, 0.1804
FULL = (0.4228, 0.2558, 0.0399)
TEMPORAL_OVER_ACT, SPATIAL_OVER_ACT, TEMPORAL_OVER_SPATIAL = 0.533, 0.388, 0.231
DDPM, CHUR = 0.688, 0.715


def misses(logits: torch.Tensor) -> torch.Tensor:
    """By how much shares [starts, activations|spatial|temporal, models, zero|low|full] miss each constraint."""
    shares = torch.softmax(logits, -1)
    zero, low, full = shares.unbind(-1)
    act, spatial, temporal = (0.5 * low + full).unbind(1)
    zeros, fulls = zero.mean(-1), full.mean(-1)
    saved = 1 - temporal / act
    return torch.stack(
        [
            zeros[:, 2] - ZERO,
            zeros[:, 2] - zeros[:, 0] - ZERO_OVER_ACT,
            zeros[:, 2] - zeros[:, 1] - ZERO_OVER_SPATIAL,
            *(fulls[:, i] - FULL[i] for i in range(3)),
            saved.mean(-1) - TEMPORAL_OVER_ACT,
            (1 - spatial / act).mean(-1) - SPATIAL_OVER_ACT,
            (1 - temporal / spatial).mean(-1) - TEMPORAL_OVER_SPATIAL,
            saved[:, 0] - DDPM,
            saved[:, 1] - CHUR,
        ],
        -1,
    )


def closest_shares(starts: int = 512, iterations: int = 4000, seed: int = 0) -> float:
    """The worst miss of the best start, as a share: 0.01 is one point."""
    torch.manual_seed(seed)
    logits = 3 * torch.randn(starts, 3, MODELS, 3, dtype=torch.float64)
    logits.requires_grad_(True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for i in range(iterations):
        if i == iterations * 2 // 3:
            optimizer.param_groups[0]["lr"] = 0.01
        missed = misses(logits)
        optimizer.zero_grad()
        missed.square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    with torch.no_grad():
        missed = misses(logits)
        best = missed.square().sum(-1).argmin()
        return float(missed[best].abs().max())


if __name__ == "__main__":
    print(f"closest: {100 * closest_shares():.1f} points from C09–C17")
