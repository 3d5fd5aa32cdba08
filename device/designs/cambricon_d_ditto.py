"""Cambricon-D's hardware with all of Ditto's software: attention differences and Defo (Fig. 15)."""

from dataclasses import replace

from ditto_cosim.device.designs.cambricon_d import DESIGN as CAMBRICON_D

DESIGN = replace(CAMBRICON_D, name="cambricon_d_ditto", title="Cambricon-D + Ditto software", policy="defo")
