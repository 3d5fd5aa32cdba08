"""Ditto+ with Cambricon-D's sign-mask data flow (Fig. 15)."""

from dataclasses import replace

from ditto_cosim.device.designs.ditto_plus import DESIGN as DITTO_PLUS

DESIGN = replace(DITTO_PLUS, name="ditto_plus_sign_mask", title="Ditto+ + sign-mask", sign_mask=True)
