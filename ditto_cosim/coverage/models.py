# SPDX-License-Identifier: Apache-2.0
"""Every denoiser class of diffusers in a size that runs in seconds: how it is built, and one call of it.

Tensors are written as texts, `kind size size …`:
    f  normal numbers       t  a timestep in 0…1    T  a whole timestep
    n  positions 0, 1, …    i  whole positions      z  whole zeros
    b  a mask of truth values, m of numbers, w of whole numbers: open but for its last position
What this file does not do: run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Small:
    """A class in a small size."""

    size: Arguments
    """What its constructor is given."""
    call: Arguments
    """What one call is given; tensors as texts, anything else as it is."""
    quick: bool = False
    """Whether `make test` takes it all the way."""


_MASKS: dict[str, torch.dtype] = {"b": torch.bool, "m": torch.float32, "w": torch.int64}
_FILLS: dict[str, Callable[[list[int]], Tensor]] = {
    "f": torch.randn,
    "t": lambda shape: torch.full(shape, 0.5),
    "T": lambda shape: torch.full(shape, 421),
    "n": lambda shape: _positions(shape).float(),
    "i": lambda shape: _positions(shape),
    "z": lambda shape: torch.zeros(shape, dtype=torch.int64),
}


_KINDS = {*_MASKS, *_FILLS}


def _positions(shape: list[int]) -> Tensor:
    axis = 1 if len(shape) == 3 else 0
    view = [-1 if i == axis else 1 for i in range(len(shape))]
    return torch.arange(shape[axis]).view(view).expand(shape).clone()


def tensor(text: str) -> Tensor:
    """The tensor that such a text means; random numbers come from torch's own generator."""
    kind, *sizes = text.split()
    shape = [int(size) for size in sizes]
    if kind not in _MASKS:
        return _FILLS[kind](shape)
    mask = torch.ones(shape, dtype=_MASKS[kind])
    mask[..., -1] = 0
    return mask


def arguments(call: Any) -> Any:
    """A call's arguments with texts made tensors, through lists and dictionaries."""
    if isinstance(call, Mapping):
        return {name: arguments(value) for name, value in call.items()}
    if isinstance(call, list | tuple):
        return type(call)(arguments(value) for value in call)
    if callable(call):
        return call()
    return tensor(call) if isinstance(call, str) and call.split(" ")[0] in _KINDS else call


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A class of diffusers with random weights, and the arguments of one call. Weights that begin as zeros are made small random
    numbers, or a block behind them would compute nothing."""
    import diffusers

    small = SMALL[name]
    torch.manual_seed(0)
    module = getattr(diffusers, name)(**small.size).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.05)
    return module, arguments(small.call)


def denoisers() -> list[str]:
    """Every `*Transformer*Model` and `*UNet*Model` of the installed diffusers."""
    import diffusers

    return [
        name
        for name in dir(diffusers)
        if name.endswith("Model") and ("Transformer" in name or "UNet" in name) and name != "ModelMixin"
    ]


def _wan_cache() -> Any:
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    return WanAnimate2KVCache(1)


_FLUX_IDS = {"img_ids": "n 12 3", "txt_ids": "n 6 3"}
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
_UNET_BLOCKS = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "sample_size": 8,
}
_WAN = {
    **_HEADS,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 1,
}
_WAN_CALL = {"hidden_states": "f 1 4 2 8 8", "timestep": "T 1", "encoder_hidden_states": "f 1 5 24"}
_MIXED = {  # Flux and its kin
    **_HEADS,
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
_MIXED_CALL = {
    "hidden_states": "f 1 12 8",
    "encoder_hidden_states": "f 1 6 24",
    "timestep": "t 1",
    **_FLUX_IDS,
}

SMALL: dict[str, Small] = {
    "AceStepTransformer1DModel": Small(
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "in_channels": 24,
            "audio_acoustic_hidden_dim": 8,
            "sliding_window": 4,
        },
        {
            "hidden_states": "f 1 12 8",
            "timestep": "t 1",
            "timestep_r": "t 1",
            "encoder_hidden_states": "f 1 5 32",
            "context_latents": "f 1 12 16",
        },
    ),
    "AllegroTransformer3DModel": Small(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "cross_attention_dim": 24,
            "caption_channels": 16,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 4,
        },
        {"hidden_states": "f 1 4 2 8 8", "encoder_hidden_states": "f 1 6 16", "timestep": "T 1"},
    ),
    "AnyFlowFARTransformer3DModel": Small(
        {**_WAN, "compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3, "rope_max_seq_len": 32},
        {
            "hidden_states": "f 1 4 4 8 8",
            "timestep": "t 1 4",
            "r_timestep": "t 1 4",
            "encoder_hidden_states": "f 1 5 24",
            "chunk_partition": [2, 2],
        },
    ),
    "AnyFlowTransformer3DModel": Small(
        {**_WAN, "rope_max_seq_len": 32},
        {
            "hidden_states": "f 1 2 4 8 8",
            "timestep": "t 1 2",
            "r_timestep": "t 1 2",
            "encoder_hidden_states": "f 1 5 24",
        },
    ),
    "AudioLDM2UNet2DConditionModel": Small(
        {**_UNET_BLOCKS, "attention_head_dim": 8, "cross_attention_dim": 24},
        {
            "sample": "f 1 4 8 8",
            "timestep": "T",
            "encoder_hidden_states": "f 1 5 24",
            "encoder_hidden_states_1": "f 1 3 24",
            "encoder_attention_mask_1": "b 1 3",
        },
    ),
    "AuraFlowTransformer2DModel": Small(
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 3,
            "caption_projection_dim": 24,
            "joint_attention_dim": 20,
            "pos_embed_max_size": 64,
        },
        {"hidden_states": "f 1 4 8 8", "encoder_hidden_states": "f 1 7 20", "timestep": "t 1"},
    ),
    "BriaFibo2Transformer2DModel": Small(
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "cap_feat_dim": 24,
            "injection_layer_ids": (0,),
            "perceiver_num_layers": 1,
            "min_num_gist_tokens": 4,
            "max_num_gist_tokens": 8,
            "gist_step": 2,
            "gist_min_text_len": 4,
            "gist_max_text_len": 16,
            "axes_dims": (4, 6, 6),
            "axes_lens": (64, 32, 32),
        },
        {"hidden_states": "f 1 4 8 8", "timestep": "t 1", "encoder_hidden_states": "f 1 2 6 24"},
    ),
    "BriaFiboTransformer2DModel": Small(
        {**_MIXED, "axes_dims_rope": (0, 8, 8), "joint_attention_dim": 32, "text_encoder_dim": 16},
        {**_MIXED_CALL, "encoder_hidden_states": "f 1 6 32", "text_encoder_layers": ["f 1 6 16", "f 1 6 16"]},
    ),
    "BriaTransformer2DModel": Small(
        {**_MIXED, "axes_dims_rope": (0, 8, 8), "pooled_projection_dim": None}, _MIXED_CALL
    ),
    "ChromaTransformer2DModel": Small(
        {**_MIXED, "approximator_num_channels": 8, "approximator_hidden_dim": 24, "approximator_layers": 1},
        _MIXED_CALL,
    ),
    "ChronoEditTransformer3DModel": Small(
        {**_WAN, "in_channels": 16, "out_channels": 16, "rope_max_seq_len": 32, "rope_temporal_skip_len": 4},
        {**_WAN_CALL, "hidden_states": "f 1 16 2 8 8"},
    ),
    "CogVideoXTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 12,
            "num_layers": 1,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": 6,
        },
        {"hidden_states": "f 1 2 4 8 8", "encoder_hidden_states": "f 1 6 12", "timestep": "T 1"},
    ),
    "CogView3PlusTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "text_embed_dim": 12,
            "time_embed_dim": 16,
            "condition_dim": 4,
            "pos_embed_max_size": 8,
            "sample_size": 8,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 12",
            "timestep": "T 1",
            "original_size": "f 1 2",
            "target_size": "f 1 2",
            "crop_coords": "z 1 2",
        },
    ),
    "CogView4Transformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "text_embed_dim": 12,
            "time_embed_dim": 16,
            "condition_dim": 4,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 12",
            "timestep": "T 1",
            "original_size": "f 1 2",
            "target_size": "f 1 2",
            "crop_coords": "z 1 2",
        },
    ),
    "ConsisIDTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 12,
            "num_layers": 1,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "max_text_seq_length": 6,
            "cross_attn_interval": 1,
            "is_train_face": True,
            "cross_attn_dim_head": 8,
            "cross_attn_num_heads": 1,
            "LFE_id_dim": 4,
            "LFE_vit_dim": 4,
            "LFE_depth": 5,
            "LFE_dim_head": 8,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 1,
            "LFE_num_querie": 2,
            "LFE_output_dim": 21,
            "LFE_ff_mult": 1,
            "LFE_num_scale": 1,
        },
        {
            "hidden_states": "f 1 2 4 8 8",
            "encoder_hidden_states": "f 1 6 12",
            "timestep": "T 1",
            "id_vit_hidden": ["f 1 2 4"],
            "id_cond": "f 1 4",
        },
    ),
    "CosmosTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "mlp_ratio": 2,
            "text_embed_dim": 24,
            "adaln_lora_dim": 8,
            "max_size": (4, 16, 16),
            "concat_padding_mask": False,
        },
        {"hidden_states": "f 1 4 1 8 8", "timestep": "T 1", "encoder_hidden_states": "f 1 5 24", "fps": 16},
    ),
    "DiTTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "sample_size": 8,
            "norm_num_groups": 16,
            "num_embeds_ada_norm": 10,
        },
        {"hidden_states": "f 1 4 8 8", "timestep": "T 1", "class_labels": "z 1"},
    ),
    "DreamLiteTransformer2DModel": Small(
        {**_HEADS, "in_channels": 32, "norm_num_groups": 8, "cross_attention_dim": 24},
        {"hidden_states": "f 1 32 8 8", "encoder_hidden_states": "f 1 5 24"},
    ),
    "DreamLiteUNetModel": Small(
        {
            "sample_size": 8,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": 24,
            "attention_head_dim": 16,
            "ff_mult": 2,
            "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
            "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        },
        {"sample": "f 1 4 8 8", "timestep": "T", "encoder_hidden_states": "f 1 5 24"},
    ),
    "EasyAnimateTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "mmdit_layers": 1,
            "num_layers": 1,
            "text_embed_dim": 24,
            "time_embed_dim": 16,
            "patch_size": 2,
            "sample_width": 8,
            "sample_height": 8,
        },
        {"hidden_states": "f 1 4 2 8 8", "timestep": "T 1", "encoder_hidden_states": "f 1 5 24"},
    ),
    "ErnieImageTransformer2DModel": Small(
        {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 1,
            "ffn_hidden_size": 48,
            "in_channels": 8,
            "out_channels": 8,
            "patch_size": 1,
            "text_in_dim": 24,
            "rope_axes_dim": (8, 4, 4),
        },
        {"hidden_states": "f 1 8 4 4", "timestep": "t 1", "text_bth": "f 1 6 24", "text_lens": "i 1"},
    ),
    "Flux2Transformer2DModel": Small(
        {**_MIXED, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 32},
        {**_MIXED_CALL, "img_ids": "i 1 12 4", "txt_ids": "i 1 6 4", "guidance": "t 1"},
    ),
    "Flux3Transformer2DModel": Small(
        {**_MIXED, "axes_dims_rope": (4, 4, 4, 4), "cond_in_channels": 8, "timestep_channels": 32},
        {**_MIXED_CALL, "img_ids": "n 12 4", "txt_ids": "n 6 4"},
    ),
    "FluxTransformer2DModel": Small(
        {**_MIXED, "patch_size": 1, "pooled_projection_dim": 16},
        {**_MIXED_CALL, "pooled_projections": "f 1 16"},
    ),
    "GlmImageTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "text_embed_dim": 24,
            "time_embed_dim": 16,
            "condition_dim": 4,
            "prior_vq_quantizer_codebook_size": 32,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "prior_token_id": "i 1",
            "prior_token_drop": "b 1",
            "timestep": "T 1",
            "target_size": "f 1 2",
            "crop_coords": "f 1 2",
        },
    ),
    "HeliosTransformer3DModel": Small(
        {**_WAN, "attention_head_dim": 12, "rope_dim": (4, 4, 4), "has_multi_term_memory_patch": True},
        {
            **_WAN_CALL,
            "indices_hidden_states": "n 1 2",
            "indices_latents_history_short": "n 1 1",
            "indices_latents_history_mid": "n 1 2",
            "indices_latents_history_long": "n 1 4",
            "latents_history_short": "f 1 4 1 8 8",
            "latents_history_mid": "f 1 4 2 8 8",
            "latents_history_long": "f 1 4 4 8 8",
        },
    ),
    "HiDreamImageTransformer2DModel": Small(
        {
            **_HEADS,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "caption_channels": [16, 12],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 2,
            "axes_dims_rope": (8, 4, 4),
            "max_resolution": (16, 16),
            "llama_layers": (0, 1),
            "force_inference_output": True,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "timesteps": "T 1",
            "encoder_hidden_states_t5": "f 1 5 16",
            "encoder_hidden_states_llama3": "f 2 1 5 12",
            "pooled_embeds": "f 1 8",
        },
    ),
    "HunyuanImageTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 8,
            "out_channels": 8,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 24,
            "rope_axes_dim": (8, 8),
        },
        {
            "hidden_states": "f 1 8 4 4",
            "timestep": "t 1",
            "encoder_hidden_states": "f 1 6 24",
            "encoder_attention_mask": "w 1 6",
        },
    ),
    "HunyuanVideo15Transformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "mlp_ratio": 2.0,
            "text_embed_dim": 24,
            "text_embed_2_dim": 12,
            "image_embed_dim": 16,
            "rope_axes_dim": (4, 6, 6),
            "target_size": 16,
            "task_type": "t2v",
        },
        {
            "hidden_states": "f 1 4 1 4 4",
            "timestep": "t 1",
            "encoder_hidden_states": "f 1 6 24",
            "encoder_attention_mask": "m 1 6",
            "encoder_hidden_states_2": "f 1 4 12",
            "encoder_attention_mask_2": "m 1 4",
            "image_embeds": "f 1 3 16",
        },
    ),
    "HunyuanVideoFramepackTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "text_embed_dim": 24,
            "pooled_projection_dim": 16,
            "rope_axes_dim": (4, 6, 6),
            "image_proj_dim": 12,
            "has_image_proj": True,
            "has_clean_x_embedder": True,
        },
        {
            "hidden_states": "f 1 4 2 4 4",
            "timestep": "T 1",
            "encoder_hidden_states": "f 1 6 24",
            "encoder_attention_mask": "w 1 6",
            "pooled_projections": "f 1 16",
            "guidance": "T 1",
            "image_embeds": "f 1 3 12",
            "indices_latents": "n 2",
            "latents_clean": "f 1 4 1 4 4",
            "indices_latents_clean": "n 1",
            "latents_history_2x": "f 1 4 2 4 4",
            "indices_latents_history_2x": "n 2",
            "latents_history_4x": "f 1 4 4 4 4",
            "indices_latents_history_4x": "n 4",
        },
    ),
    "HunyuanVideoTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "text_embed_dim": 24,
            "pooled_projection_dim": 16,
            "rope_axes_dim": (4, 6, 6),
        },
        {
            "hidden_states": "f 1 4 1 4 4",
            "timestep": "T 1",
            "encoder_hidden_states": "f 1 6 24",
            "encoder_attention_mask": "w 1 6",
            "pooled_projections": "f 1 16",
            "guidance": "t 1",
        },
    ),
    "Ideogram4Transformer2DModel": Small(
        {
            "in_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "adaln_dim": 16,
            "llm_features_dim": 24,
            "mrope_section": (2, 1, 1),
        },
        {
            "hidden_states": "f 1 8 16",
            "encoder_hidden_states": "f 1 8 24",
            "timestep": "t 1",
            "position_ids": "i 1 8 3",
            "segment_ids": "w 1 8",
            "indicator": "i 1 8",
        },
    ),
    "JoyImageEditPlusTransformer3DModel": Small(
        {
            "patch_size": [1, 2, 2],
            "in_channels": 8,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "text_dim": 24,
            "num_layers": 1,
            "rope_dim_list": [4, 6, 6],
        },
        {
            "hidden_states": "f 1 2 8 1 2 2",
            "encoder_hidden_states": "f 1 5 24",
            "timestep": "t 1",
            "shape_list": [[(1, 1, 1), (1, 1, 1)]],
        },
    ),
    "JoyImageEditTransformer3DModel": Small(
        {
            "patch_size": [1, 2, 2],
            "in_channels": 8,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "text_dim": 24,
            "num_layers": 1,
            "rope_dim_list": [4, 6, 6],
        },
        {"hidden_states": "f 1 8 1 4 4", "encoder_hidden_states": "f 1 5 24", "timestep": "t 1"},
    ),
    "Kandinsky5Transformer3DModel": Small(
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": 24,
            "in_text_dim2": 12,
            "time_dim": 16,
            "model_dim": 32,
            "ff_dim": 48,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
        },
        {
            "hidden_states": "f 1 1 4 4 4",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "pooled_projections": "f 1 12",
            "visual_rope_pos": ["i 1", "i 2", "i 2"],
            "text_rope_pos": "i 6",
        },
    ),
    "Kandinsky6SRTransformer3DModel": Small(
        {
            "in_visual_dim": 8,
            "out_visual_dim": 8,
            "time_dim": 16,
            "model_dim": 32,
            "ff_dim": 48,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
        },
        {"hidden_states": "f 1 1 8 8 17", "timestep": "T 1"},
    ),
    "Kandinsky6Transformer3DModel": Small(
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": 24,
            "in_text_dim2": 12,
            "time_dim": 16,
            "model_dim": 32,
            "ff_dim": 48,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
            "axes_dims": (4, 6, 6),
            "visual_cond": False,
        },
        {
            "hidden_states": "f 1 1 4 4 4",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "pooled_projections": "f 1 12",
        },
    ),
    "Krea2Transformer2DModel": Small(
        {
            "in_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "timestep_embed_dim": 16,
            "text_hidden_dim": 16,
            "num_text_layers": 2,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 1,
            "text_intermediate_size": 24,
            "num_layerwise_text_blocks": 1,
            "num_refiner_text_blocks": 1,
            "axes_dims_rope": (4, 2, 2),
        },
        {
            "hidden_states": "f 1 6 16",
            "encoder_hidden_states": "f 1 4 2 16",
            "timestep": "t 1",
            "position_ids": "n 10 3",
            "encoder_attention_mask": "b 1 4",
        },
    ),
    "LTX2VideoTransformer3DModel": Small(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 4,
            "audio_cross_attention_dim": 8,
            "num_layers": 1,
            "caption_channels": 12,
            "rope_double_precision": False,
        },
        {
            "hidden_states": "f 1 16 4",
            "audio_hidden_states": "f 1 5 4",
            "encoder_hidden_states": "f 1 6 12",
            "audio_encoder_hidden_states": "f 1 6 12",
            "timestep": "T 1",
            "encoder_attention_mask": "b 1 6",
            "num_frames": 1,
            "height": 4,
            "width": 4,
            "audio_num_frames": 5,
            "fps": 24.0,
        },
    ),
    "LTXVideoTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": 32,
            "num_layers": 1,
            "caption_channels": 24,
        },
        {
            "hidden_states": "f 1 16 4",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "encoder_attention_mask": "b 1 6",
            "num_frames": 1,
            "height": 4,
            "width": 4,
        },
    ),
    "LatteTransformer3DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "sample_size": 8,
            "patch_size": 2,
            "caption_channels": 24,
            "cross_attention_dim": 32,
            "video_length": 2,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
        },
        {"hidden_states": "f 1 4 2 8 8", "encoder_hidden_states": "f 1 5 24", "timestep": "T 1"},
    ),
    "LongCatImageTransformer2DModel": Small(
        {**_MIXED, "patch_size": 1, "pooled_projection_dim": 16}, {**_MIXED_CALL, "guidance": "t 1"}
    ),
    "Lumina2Transformer2DModel": Small(
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "multiple_of": 8,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (64, 32, 32),
            "cap_feat_dim": 24,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "t 1",
            "encoder_attention_mask": "b 1 6",
        },
    ),
    "MiniMaxH3Transformer3DModel": Small(
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "hidden_size": 24,
            "num_layers": 1,
            "num_refiner_layers": 1,
            "ffn_dim": 32,
            "in_channels": 4,
            "audio_in_channels": 6,
            "text_dim": 12,
            "freq_dim": 8,
            "time_embed_hidden_dim": 24,
            "time_embed_dim": 16,
            "rope_freq_dim": 2,
        },
        {
            "hidden_states": "f 1 4 16",
            "audio_hidden_states": "f 1 3 6",
            "encoder_hidden_states": "f 1 2 12",
            "timestep": "t 1",
            "timestep_indices": "z 9",
            "token_tags": "z 9",
            "position_ids": "n 9 3",
            "video_indices": "i 4",
            "audio_indices": "i 3",
            "text_indices": "i 2",
        },
    ),
    "MiniMaxMusic3Transformer1DModel": Small(
        {
            "in_channels": 8,
            "condition_dim": 16,
            "num_layers": 1,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "ff_inner_dim": 32,
            "rotary_dim": 8,
            "fourier_embedding_dim": 16,
        },
        {"hidden_states": "f 1 8 12", "encoder_hidden_states": "f 1 12 16", "timestep": "t 1"},
    ),
    "MochiTransformer3DModel": Small(
        {
            **_HEADS,
            "num_layers": 1,
            "pooled_projection_dim": 24,
            "in_channels": 4,
            "text_embed_dim": 24,
            "time_embed_dim": 16,
            "max_sequence_length": 16,
        },
        {
            "hidden_states": "f 1 4 1 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "encoder_attention_mask": "b 1 6",
        },
    ),
    "MotifVideoTransformer3DModel": Small(
        {
            "in_channels": 9,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_single_layers": 1,
            "num_decoder_layers": 0,
            "patch_size": 1,
            "patch_size_t": 1,
            "text_embed_dim": 24,
            "image_embed_dim": 8,
            "rope_axes_dim": (4, 4, 4),
        },
        {"hidden_states": "f 1 9 1 4 4", "encoder_hidden_states": "f 1 5 24", "timestep": "T 1"},
    ),
    "NucleusMoEImageTransformer2DModel": Small(
        {
            **_HEADS,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "joint_attention_dim": 24,
            "axes_dims_rope": (8, 4, 4),
            "moe_enabled": False,
            "capacity_factors": [8.0],
        },
        {
            "hidden_states": "f 1 16 16",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "t 1",
            "encoder_hidden_states_mask": "w 1 6",
            "img_shapes": [(1, 4, 4)],
        },
    ),
    "OmniGenTransformer2DModel": Small(
        {
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 48,
            "num_layers": 1,
            "pad_token_id": 0,
            "vocab_size": 100,
            "in_channels": 4,
            "time_step_dim": 16,
            "rope_scaling": {"long_factor": [1, 1, 1, 1], "short_factor": [1, 1, 1, 1]},
        },
        {
            "hidden_states": "f 1 4 8 8",
            "timestep": "t 1",
            "input_ids": "z 1 6",
            "input_img_latents": [],
            "input_image_sizes": {},
            "attention_mask": "m 1 23 23",
            "position_ids": "i 1 23",
        },
    ),
    "OvisImageTransformer2DModel": Small({**_MIXED, "patch_size": 1, "out_channels": 8}, _MIXED_CALL),
    "PRXTransformer2DModel": Small(
        {
            "in_channels": 4,
            "patch_size": 2,
            "context_in_dim": 24,
            "hidden_size": 32,
            "mlp_ratio": 2.0,
            "num_heads": 2,
            "depth": 1,
            "axes_dim": [8, 8],
        },
        {"hidden_states": "f 1 4 8 8", "encoder_hidden_states": "f 1 6 24", "timestep": "t 1"},
    ),
    "PixArtTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "sample_size": 8,
            "cross_attention_dim": 32,
            "caption_channels": 24,
            "use_additional_conditions": False,
            "norm_num_groups": 16,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "encoder_attention_mask": "b 1 6",
            "added_cond_kwargs": {"aspect_ratio": None, "resolution": None},
        },
        quick=True,
    ),
    "QwenImage21Transformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 1,
            "context_in_dim": 24,
            "axes_dims_rope": (8, 4, 4),
        },
        {
            "hidden_states": "f 1 16 16",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "t 1",
            "img_shapes": [[(1, 4, 4)]],
            "img_mask": torch.tensor([[False] * 6 + [True] * 4]),
        },
    ),
    "QwenImageTransformer2DModel": Small(
        {
            **_HEADS,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 1,
            "joint_attention_dim": 24,
            "axes_dims_rope": (8, 4, 4),
        },
        {
            "hidden_states": "f 1 16 16",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "t 1",
            "encoder_hidden_states_mask": "w 1 6",
            "img_shapes": [(1, 4, 4)],
        },
    ),
    "SD3Transformer2DModel": Small(
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "caption_projection_dim": 32,
            "joint_attention_dim": 24,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "pooled_projections": "f 1 16",
            "timestep": "T 1",
        },
    ),
    "SanaTransformer2DModel": Small(
        {
            **_HEADS,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 24,
            "sample_size": 8,
        },
        {
            "hidden_states": "f 1 4 8 8",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "T 1",
            "encoder_attention_mask": "m 1 6",
        },
        quick=True,
    ),
    "SanaVideoTransformer3DModel": Small(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_layers": 1,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": 16,
            "sample_size": 8,
            "rope_max_seq_len": 32,
        },
        {"hidden_states": "f 1 4 2 8 8", "encoder_hidden_states": "f 1 5 16", "timestep": "T 1"},
    ),
    "SanaWMLTX2RefinerTransformer3DModel": Small(
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "cross_attention_dim": 32,
            "num_layers": 1,
            "caption_channels": 24,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 16,
        },
        {
            "hidden_states": "f 1 16 4",
            "encoder_hidden_states": "f 1 6 24",
            "timestep": "t 1 16",
            "video_rotary_emb": ("f 1 16 32", "f 1 16 32"),
        },
    ),
    "SanaWMTransformer3DModel": Small(
        {
            "in_channels": 4,
            "num_layers": 1,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "linear_head_dim": 16,
            "caption_channels": 24,
            "image_size": 64,
            "chunk_plucker_post_attn_blocks": 1,
            "mixed_precision": "no",
            "softmax_every_n": 1,
        },
        {
            "hidden_states": "f 1 4 2 8 8",
            "encoder_hidden_states": "f 1 1 6 24",
            "timestep": "t 1 1 2",
            "mask": "w 1 6",
        },
    ),
    "SkyReelsV2Transformer3DModel": Small({**_WAN, "rope_max_seq_len": 32}, _WAN_CALL),
    "Transformer2DModel": Small(
        {**_HEADS, "in_channels": 32, "norm_num_groups": 8, "cross_attention_dim": 24, "num_layers": 1},
        {
            "hidden_states": "f 1 32 8 8",
            "encoder_hidden_states": "f 1 5 24",
            "encoder_attention_mask": "b 1 5",
        },
    ),
    "TransformerTemporalModel": Small(
        {**_HEADS, "in_channels": 16, "num_layers": 1, "norm_num_groups": 4},
        {"hidden_states": "f 4 16 4 4", "num_frames": 2},
    ),
    "UNet1DModel": Small(
        {
            "block_out_channels": (16, 32),
            "in_channels": 6,
            "out_channels": 6,
            "sample_size": 16,
            "time_embedding_type": "positional",
            "use_timestep_embedding": True,
            "flip_sin_to_cos": False,
            "freq_shift": 1.0,
            "out_block_type": "OutConv1DBlock",
            "mid_block_type": "MidResTemporalBlock1D",
            "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"),
            "up_block_types": ("UpResnetBlock1D",),
            "act_fn": "mish",
        },
        {"sample": "f 1 6 16", "timestep": "T 1"},
        quick=True,
    ),
    "UNet2DConditionModel": Small(
        {**_UNET_BLOCKS, "attention_head_dim": 8},
        {
            "sample": "f 1 4 10 10",
            "timestep": "T",
            "encoder_hidden_states": "f 1 5 24",
            "encoder_attention_mask": "b 1 5",
        },
    ),
    "UNet2DModel": Small(
        {
            "block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "attention_head_dim": 8,
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "sample_size": 8,
        },
        {"sample": "f 1 3 8 8", "timestep": "T"},
    ),
    "UNet3DConditionModel": Small(
        {
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "cross_attention_dim": 24,
            "attention_head_dim": 4,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "layers_per_block": 1,
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "sample_size": 8,
        },
        {"sample": "f 1 4 2 8 8", "timestep": "T", "encoder_hidden_states": "f 1 5 24"},
    ),
    "UNetControlNetXSModel": Small(
        {
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "cross_attention_dim": 24,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "num_attention_heads": 2,
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": 1,
            "ctrl_block_out_channels": [4, 8],
            "ctrl_num_attention_heads": 2,
            "ctrl_max_norm_num_groups": 2,
            "ctrl_conditioning_embedding_out_channels": (4, 4),
        },
        {
            "sample": "f 1 4 8 8",
            "timestep": "T",
            "encoder_hidden_states": "f 1 5 24",
            "controlnet_cond": "f 1 3 16 16",
            "conditioning_scale": 1,
        },
    ),
    "UNetMotionModel": Small(
        {
            "block_out_channels": (16, 32),
            "norm_num_groups": 8,
            "cross_attention_dim": 24,
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "num_attention_heads": 2,
            "sample_size": 8,
            "motion_num_attention_heads": 2,
        },
        {"sample": "f 1 4 2 8 8", "timestep": "T", "encoder_hidden_states": "f 2 5 24"},
    ),
    "UNetSpatioTemporalConditionModel": Small(
        {
            "block_out_channels": (32, 64),
            "cross_attention_dim": 24,
            "num_attention_heads": 2,
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
        },
        {
            "sample": "f 1 2 4 8 8",
            "timestep": "T",
            "encoder_hidden_states": "f 1 1 24",
            "added_time_ids": "f 1 3",
        },
    ),
    "WanAnimate2Transformer3DModel": Small(
        {
            "text_len": 8,
            "in_dim": 12,
            "dim": 32,
            "ffn_dim": 48,
            "freq_dim": 32,
            "text_dim": 24,
            "out_dim": 4,
            "num_heads": 2,
            "num_layers": 1,
            "use_img_emb": False,
        },
        {
            "hidden_states": ["f 4 2 4 4"],
            "timestep": "T 1",
            "encoder_hidden_states": ["f 5 24"],
            "condition_latents": ["f 8 2 4 4"],
            "seq_len": 8,
            "kv_cache": _wan_cache,
            "kv_cache_mode": "extract",
            "offset_grid_sizes": torch.tensor([[2, 2, 2]]),
        },
    ),
    "WanAnimateTransformer3DModel": Small(
        {
            **_WAN,
            "attention_head_dim": 12,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 16,
            "num_layers": 1,
            "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 16,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 1,
            "rope_max_seq_len": 32,
        },
        {
            "hidden_states": "f 1 12 3 8 8",
            "timestep": "T 1",
            "encoder_hidden_states": "f 1 5 24",
            "encoder_hidden_states_image": "f 1 4 16",
            "pose_hidden_states": "f 1 4 2 8 8",
            "face_pixel_values": "f 1 3 5 16 16",
        },
    ),
    "WanTransformer3DModel": Small({**_WAN, "rope_max_seq_len": 32}, _WAN_CALL, quick=True),
    "WanVACETransformer3DModel": Small(
        {**_WAN, "num_layers": 2, "vace_layers": [0], "vace_in_channels": 12, "rope_max_seq_len": 32},
        {**_WAN_CALL, "control_hidden_states": "f 1 12 2 8 8"},
    ),
    "ZImageTransformer2DModel": Small(
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 24,
            "axes_dims": [8, 4, 4],
            "axes_lens": [64, 32, 32],
        },
        {"x": ["f 4 1 8 8"], "cap_feats": ["f 6 24"], "t": "t 1"},
    ),
}
