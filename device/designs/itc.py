"""ITC: an integer tensor core, 8-bit by 8-bit, every element multiplied, no differences."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="itc", title="ITC", datapath="dense8", multipliers=27_648, policy="base", power_watts=36.9
)
