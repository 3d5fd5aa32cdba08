"""Diffy: spatial differences, row by row, in 4-bit or 8-bit multiplications; zeros are values like any
other."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="diffy",
    title="Diffy",
    datapath="low4",
    multipliers=39_398,
    policy="base",
    base_mode="spatial",
    power_watts=33.6,
)
