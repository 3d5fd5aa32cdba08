"""Cambricon-D as the paper compares it: temporal differences always, outlier PEs, sign-mask, and Ditto's
dependency check and attention differences added. Approximate where values pass the sign-mask; here it is
traffic and time alone."""

from ditto_cosim.device.designs.base import Design

DESIGN = Design(
    name="cambricon_d",
    title="Cambricon-D",
    datapath="outlier",
    multipliers=38_280,
    outlier_multipliers=2_552,
    policy="temporal",
    sign_mask=True,
    power_watts=33.3,
)
