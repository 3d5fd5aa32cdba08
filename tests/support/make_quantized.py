# SPDX-License-Identifier: Apache-2.0
"""Makes the checkpoints in `tests/golden/quantized` with the libraries whose form they have, and what those libraries compute.

pip install torchao==0.18.0 nvidia-modelopt==0.47.0 (with pulp, nvidia-ml-py, omegaconf), then

    python tests/support/make_quantized.py

Each `NAME.safetensors` is what the library exports of one small transformer; `answers.safetensors` holds the inputs, the
weights before, and under each name the library's own result. Tests need neither library.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

HERE = Path(__file__).parents[1] / "golden" / "quantized"
CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "sample_size": 4,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
    "norm_num_groups": 4,
}


def main() -> None:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**CONFIG).eval()
    inputs = {
        "sample": torch.randn(8, 4, 4, 4),
        "timestep": torch.arange(8) * 100,
        "labels": torch.arange(8) % 10,
    }

    def answer(module: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = module(
                inputs["sample"], inputs["timestep"], class_labels=inputs["labels"], return_dict=False
            )[0]
        return found

    answers = {**inputs, "fp32": answer(model)}
    answers |= {f"weights.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, quantized in (("torchao-dynamic", torchao_dynamic), ("torchao-static", torchao_static)):
        answers[name] = answer(quantized(copy.deepcopy(model), HERE / f"{name}.safetensors", answer))
    for name, kind in (("modelopt", "INT8_DEFAULT_CFG"), ("modelopt-smooth", "INT8_SMOOTHQUANT_CFG")):
        answers[name] = answer(modelopt(copy.deepcopy(model), HERE / f"{name}.safetensors", answer, kind))
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in answers.items()}, HERE / "answers.safetensors"
    )


def save_torchao(model: Any, path: Path) -> Any:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, metadata = flatten_tensor_state_dict(model.state_dict())
    save_file(tensors, path, metadata=metadata)
    return model


def torchao_dynamic(model: Any, path: Path, answer: Any) -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return save_torchao(model, path)


def torchao_static(model: Any, path: Path, answer: Any) -> Any:
    """A scale for each layer's input, from the largest number it meets."""
    from torchao.quantization import Int8StaticActivationInt8WeightConfig, PerTensor, quantize_

    largest: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def seen(module: Any, arguments: Any) -> None:
            largest[name] = arguments[0].abs().amax().reshape([1] * arguments[0].ndim)

        return seen

    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    answer(model)
    for hook in hooks:
        hook.remove()
    for name in largest:
        config = Int8StaticActivationInt8WeightConfig(
            act_quant_scale=largest[name] / 127, granularity=PerTensor()
        )
        quantize_(model, config, filter_fn=lambda module, path, name=name: path == name)
    return save_torchao(model, path)


def modelopt(model: Any, path: Path, answer: Any, kind: str) -> Any:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    quantized = mtq.quantize(model, copy.deepcopy(getattr(mtq, kind)), answer)
    with tempfile.TemporaryDirectory() as folder:
        export_hf_checkpoint(copy.deepcopy(quantized), export_dir=folder)
        (file,) = Path(folder).glob("*.safetensors")
        shutil.copyfile(file, path)
    return quantized


if __name__ == "__main__":
    main()
