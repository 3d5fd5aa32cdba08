"""Ideal Ditto: an oracle picks original or temporal for every layer and step."""

from dataclasses import replace

from ditto_cosim.device.designs.ditto import DESIGN as DITTO

DESIGN = replace(DITTO, name="ideal_ditto", title="Ideal Ditto", policy="ideal")
