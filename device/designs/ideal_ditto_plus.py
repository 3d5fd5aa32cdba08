"""Ideal Ditto+: an oracle picks spatial or temporal for every layer and step."""

from dataclasses import replace

from ditto_cosim.device.designs.ditto_plus import DESIGN as DITTO_PLUS

DESIGN = replace(DITTO_PLUS, name="ideal_ditto_plus", title="Ideal Ditto+", policy="ideal")
