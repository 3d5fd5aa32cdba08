"""Dynamic-Ditto: Defo goes on watching and may return a layer to original at any later step, never back."""

from dataclasses import replace

from ditto_cosim.device.designs.ditto import DESIGN as DITTO

DESIGN = replace(DITTO, name="dynamic_ditto", title="Dynamic-Ditto", policy="dynamic")
