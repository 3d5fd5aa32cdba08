"""Ditto+: Ditto whose base mode is spatial, in the first step and wherever Defo returns a layer."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="ditto_plus",
    title="Ditto+",
    datapath="slots",
    multipliers=39_398,
    policy="defo",
    base_mode="spatial",
    power_watts=33.6,
)
