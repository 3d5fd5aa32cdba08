"""DS: dynamic sparsity alone. Temporal differences on 8-bit multipliers that skip zeros; attention stays
original."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="ds",
    title="DS",
    datapath="sparse8",
    multipliers=27_648,
    policy="temporal",
    attention_differences=False,
    power_watts=36.9,
)
