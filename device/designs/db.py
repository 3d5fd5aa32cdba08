"""DB: dynamic bit width alone. Temporal differences on 4-bit multipliers, no zero skipped; attention stays
original."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="db",
    title="DB",
    datapath="low4",
    multipliers=39_398,
    policy="temporal",
    attention_differences=False,
    power_watts=33.6,
)
