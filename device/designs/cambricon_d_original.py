"""Cambricon-D without Ditto's software: attention in full bit width, sign-mask, dependency check (Fig. 15's
unit)."""

from dataclasses import replace

from ditto_cosim.device.designs.cambricon_d import DESIGN as CAMBRICON_D

DESIGN = replace(
    CAMBRICON_D, name="cambricon_d_original", title="Cambricon-D (original)", attention_differences=False
)
