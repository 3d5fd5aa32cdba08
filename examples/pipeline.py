# SPDX-License-Identifier: Apache-2.0
"""An unmodified diffusers pipeline with its denoiser on the emulated accelerator.

    python examples/pipeline.py

Runs the model that ships under two designs, checks that their pictures are the same, and compares their cycles.
"""

import torch

from ditto_cosim import accelerate
from ditto_cosim.host.pipeline.models import load_model

STEPS = 20

pictures, cycles = {}, {}
for design in ("itc", "ditto"):
    model = load_model("fashion-ddpm")
    pipe = accelerate(model.pipe, backend="model", chip="tiny", design=design, scales=model.scales)
    noise = torch.Generator().manual_seed(11)
    pictures[design] = pipe(num_inference_steps=STEPS, generator=noise).images[0]
    cycles[design] = pipe.unet.finish().totals["cycles"]
    pipe.unet.shut_down()

assert pictures["itc"].tobytes() == pictures["ditto"].tobytes()
print(f"itc {cycles['itc']:,} cycles, ditto {cycles['ditto']:,}: {cycles['itc'] / cycles['ditto']:.2f}×")
