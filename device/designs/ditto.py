"""Ditto: temporal differences with zero skipping and 4-bit slots; Defo returns layers to original where it
pays."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="ditto", title="Ditto", datapath="slots", multipliers=39_398, policy="defo", power_watts=33.6
)
