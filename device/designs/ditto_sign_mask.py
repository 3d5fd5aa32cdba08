"""Ditto with Cambricon-D's sign-mask data flow (Fig. 15)."""

from dataclasses import replace

from ditto_cosim.device.designs.ditto import DESIGN as DITTO

DESIGN = replace(DITTO, name="ditto_sign_mask", title="Ditto + sign-mask", sign_mask=True)
