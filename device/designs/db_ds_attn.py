"""DB&DS&Attn: Ditto without Defo. Temporal differences always, attention included."""

from dataclasses import replace

from ditto_cosim.device.designs.db_ds import DESIGN as DB_DS

DESIGN = replace(DB_DS, name="db_ds_attn", title="DB&DS&Attn.", attention_differences=True)
