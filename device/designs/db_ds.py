"""DB&DS: Ditto's multipliers, temporal differences always, attention stays original."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="db_ds",
    title="DB&DS",
    datapath="slots",
    multipliers=39_398,
    policy="temporal",
    attention_differences=False,
    power_watts=33.6,
)
