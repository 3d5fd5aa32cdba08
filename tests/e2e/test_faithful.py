# SPDX-License-Identifier: Apache-2.0
"""Never another model: what a device is given to compute is the user's module as it is now, or is refused by name.

The judge is the live fp32 module on the same inputs, in decibels. Golden stands in for the device, whose values equal it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from ditto_cosim.host.analysis.quality import GoldenRun
from ditto_cosim.host.compiler.arguments import ArgumentError
from ditto_cosim.host.compiler.cache import Cache
from ditto_cosim.host.compiler.capture import CaptureError
from ditto_cosim.host.compiler.lower import LoweringError
from ditto_cosim.host.compiler.quantize import save_grids
from ditto_cosim.host.pipeline.accelerate import accelerate, restore
from ditto_cosim.host.pipeline.fingerprint import UnfaithfulError
from ditto_cosim.host.pipeline.run import FidelityError
from ditto_cosim.host.wire.supervisor import LocalDevice
from support.families import build, calibrated

FAITHFUL_DB = 20


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**config: Any) -> Any:
    """A UNet with one attention block in its middle."""
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 16,
            "block_out_channels": (16,),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "norm_num_groups": 8,
            "cross_attention_dim": 24,
            "attention_head_dim": 8,
            **config,
        }
    ).eval()


class Opened:
    """Golden runs, counted."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def __call__(self, compiled: Any, steps: Any, record: Any) -> Any:
        self.runs.append(GoldenRun(compiled))
        return self.runs[-1]

    @property
    def programs(self) -> Any:
        return len({run.compiled.program.digest for run in self.runs})


def snr_db(live: Any, got: Any) -> Any:
    noise = float((live.double() - got.double()).square().sum())
    return 10 * math.log10(float(live.double().square().sum()) / noise) if noise else math.inf


def inputs(step: Any = 0, batch: Any = 2) -> Any:
    generator = torch.Generator().manual_seed(9)
    sample = torch.randn(batch, 4, 16, 16, generator=generator)
    context = torch.randn(batch, 7, 24, generator=generator)
    return {
        "sample": sample + 0.05 * step,
        "timestep": torch.tensor(900 - 100 * step),
        "encoder_hidden_states": context,
    }


def residuals(seed: int = 3) -> Any:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 16, 16, 16)] * 2
    return {
        "down_block_additional_residuals": tuple(torch.randn(s, generator=generator) for s in shapes),
        "mid_block_additional_residual": torch.randn(2, 16, 16, 16, generator=generator),
    }


def accelerated(module: Any, calls: Any, **settings: Any) -> Any:
    """The module on golden, a copy of it that stays in fp32, and the runs."""
    live, opened = copy.deepcopy(module), Opened()

    def calibration(target: Any) -> None:
        for call in calls:
            target(**call)

    return accelerate(module, open_run=opened, calibration=calibration, **settings), live, opened


@torch.no_grad()
def fidelity(module: Any, live: Any, **call: Any) -> Any:
    return snr_db(live(**copy.deepcopy(call))[0], module(**call)[0])  # UNets empty the lists they are given


# --- arguments ------------------------------------------------------------------------------------------------------------


def test_faithful_controlnet_residuals_are_inputs() -> None:
    """Residuals that differ in a few elements, or in every one, are neither stale nor another program."""
    first = residuals()
    module, live, opened = accelerated(small(), [{**inputs(), **first}])
    assert fidelity(module, live, **inputs(), **first) > FAITHFUL_DB
    changed = copy.deepcopy(first)
    changed["down_block_additional_residuals"][1][0, 3] += 40.0
    one_step_later = {**inputs(1), **changed}
    expected, got = live(**one_step_later)[0], module(**one_step_later)[0]
    stale = live(**{**one_step_later, **first})[0]
    assert snr_db(expected, stale) < snr_db(expected, got)
    assert fidelity(module, live, **inputs(2), **residuals(4)) > FAITHFUL_DB - 6
    assert len(opened.runs) == 1
    assert opened.runs[0].seen.steps == 3


def test_faithful_t2i_adapter_residuals_are_inputs() -> None:
    def adapter() -> Any:
        return {"down_intrablock_additional_residuals": [torch.randn(2, 16, 16, 16)]}

    module, live, opened = accelerated(small(), [{**inputs(), **adapter()} for _ in range(3)])
    for step in range(3):
        call = adapter()
        assert fidelity(module, live, **inputs(step), **call) > FAITHFUL_DB
    assert len(opened.runs) == 1


def test_faithful_sdxl_conditions_change_the_picture_and_not_the_program() -> None:
    def conditions(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return {
            "added_cond_kwargs": {
                "text_embeds": torch.randn(2, 12, generator=generator) * 3,
                "time_ids": torch.tensor([[512.0, 512, seed * 100, 0, 512, 512]] * 2),
            }
        }

    module, live, opened = accelerated(
        small(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
        ),
        [{**inputs(), **conditions(s)} for s in range(4)],
    )
    for seed in range(3):
        for step in range(2):
            assert fidelity(module, live, **inputs(step), **conditions(seed)) > FAITHFUL_DB
    assert opened.programs == 1
    assert {run.seen.steps for run in opened.runs} == {2}


def test_faithful_values_of_python_arguments_make_another_program() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor, options: Any) -> Any:
            return self.inner(sample) * options["scale"][0] if options["on"] else sample

    module, live, opened = accelerated(
        Scaled().eval(), [{"sample": torch.randn(3, 8), "options": {"scale": [1.0], "on": True}}]
    )
    for options in (
        {"scale": [1.0], "on": True},
        {"scale": [0.25], "on": True},
        {"scale": [1.0], "on": True},
    ):
        assert fidelity(module, live, sample=torch.randn(3, 8), options=options) > FAITHFUL_DB
    assert opened.programs == 2


def test_faithful_refuses_what_may_hide_a_tensor_or_ask_for_gradients() -> None:
    class Hidden:
        def __init__(self) -> None:
            self.bias = torch.ones(8)

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, sample: torch.Tensor, extra: Any = None) -> Any:
            return self.inner(sample)

    module, _, _ = accelerated(Biased().eval(), [{"sample": torch.randn(3, 8)}])
    with pytest.raises(ArgumentError, match=r"extra is a .*Hidden; expected tensors"):
        module(torch.randn(3, 8), Hidden())
    with pytest.raises(ArgumentError, match="'sample' asks for gradients"):
        module(torch.randn(3, 8, requires_grad=True))


def test_faithful_static_inputs_that_change_have_runs_of_their_own() -> None:
    """A conditional and an unconditional call take turns; each meets its own previous step."""
    one, other = inputs(), inputs()
    other["encoder_hidden_states"] = torch.randn(2, 7, 24)
    module, live, opened = accelerated(small(), [one, other])
    for step in range(3):
        for call in (one, other):
            now = {**inputs(step), "encoder_hidden_states": call["encoder_hidden_states"]}
            assert fidelity(module, live, **now) > FAITHFUL_DB
    assert [run.seen.steps for run in opened.runs] == [3, 3]
    seen = module.finish()
    assert [g.steps for g in (seen, *seen.others)] == [3, 3]
    for step in range(7):  # a context that never stays: in the end an input like any other
        now = {**inputs(step), "encoder_hidden_states": torch.randn(2, 7, 24)}
        assert fidelity(module, live, **now) > FAITHFUL_DB - 4
    assert opened.runs[-1].seen.steps == 3
    assert not opened.runs[-1].compiled.program.static_inputs


# --- changes of the module ------------------------------------------------------------------------------------------------


def edit_in_place(unet: Any) -> None:
    with torch.no_grad():
        unet.conv_in.weight.mul_(-1.5)


def edit_through_data(unet: Any) -> None:
    for parameter in unet.mid_block.parameters():
        parameter.data.mul_(-2)


def ema(unet: Any) -> None:
    average = diffusers.training_utils.EMAModel(unet.parameters())
    for shadow in average.shadow_params:
        shadow.mul_(1.4)
    average.copy_to(unet.parameters())


def load_other_weights(unet: Any) -> None:
    unet.load_state_dict({n: torch.roll(t, 1, 0) for n, t in unet.state_dict().items()})


def another_processor(unet: Any) -> Any:
    class Sharper(diffusers.models.attention_processor.AttnProcessor):
        def __call__(self, attn: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            return 3 * super().__call__(attn, hidden_states, *args, **kwargs)

    unet.set_attn_processor(Sharper())


def fuse(unet: Any) -> None:
    unet.fuse_qkv_projections()


def scale_by_attribute(unet: Any) -> None:
    for resnet in (unet.mid_block.resnets[0], unet.up_blocks[0].resnets[0]):
        resnet.output_scale_factor = 3.0


def replace_a_layer(unet: Any) -> None:
    unet.conv_out = nn.Sequential(unet.conv_out, nn.Conv2d(4, 4, 1))


class LoRALinear(nn.Module):
    """What an adapter does to a layer."""

    def __init__(self, base_layer: Any, rank: Any = 4) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base_layer.out_features, bias=False)
        self.scaling = {"default": 2.0}

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(x) + self.lora_B(self.lora_A(x)) * self.scaling["default"]


def add_lora(unet: Any) -> None:
    for attention in (m for m in unet.modules() if type(m).__name__ == "Attention"):
        attention.to_q = LoRALinear(attention.to_q)
        attention.to_out[0] = LoRALinear(attention.to_out[0])


def scale_lora(unet: Any) -> None:
    add_lora(unet)
    for layer in (m for m in unet.modules() if isinstance(m, LoRALinear)):
        layer.scaling["default"] = 6.0


CHANGES = [
    edit_in_place,
    edit_through_data,
    ema,
    load_other_weights,
    another_processor,
    fuse,
    scale_by_attribute,
    replace_a_layer,
    add_lora,
    scale_lora,
]


GIVEN = {add_lora, edit_through_data}


@pytest.mark.parametrize(
    ("change", "given"),
    [(change, False) for change in CHANGES]
    + [pytest.param(c, True, marks=() if c in GIVEN else pytest.mark.long) for c in CHANGES],
)
def test_faithful_to_a_module_that_changes_after_accelerate(change: Any, given: Any, tmp_path: Path) -> None:
    module, _, opened = accelerated(small(), [inputs(s) for s in range(3)])
    if given:
        save_grids(module.grids, tmp_path / "scales.json")
        module, opened = restore(module), Opened()
        accelerate(module, open_run=opened, scales=tmp_path / "scales.json")
    module(**inputs())
    module.begin()
    before = copy.deepcopy(restore(copy.deepcopy(module)))
    torch.manual_seed(1)
    change(module)
    live = restore(copy.deepcopy(module))
    expected = live(**inputs())[0]
    stale = snr_db(expected, before(**inputs())[0])
    got = snr_db(expected, module(**inputs())[0])
    assert got > (12 if given else FAITHFUL_DB)
    assert stale < got or change is fuse
    assert opened.programs == 2


def test_faithful_to_a_change_between_two_steps() -> None:
    module, _, opened = accelerated(small(), [inputs(s) for s in range(3)])
    module(**inputs(0))
    with torch.no_grad():
        module.conv_in.weight.mul_(-1)
    live = restore(copy.deepcopy(module))
    assert fidelity(module, live, **inputs(1)) > FAITHFUL_DB
    assert len(opened.runs) == 2


def test_faithful_constants_are_copies() -> None:
    module, _, opened = accelerated(small(), [inputs()])
    module(**inputs())
    kept = {n: t.clone() for n, t in opened.runs[0].compiled.constants.items()}
    for parameter in module.parameters():
        parameter.data.zero_()
    for name, tensor in opened.runs[0].compiled.constants.items():
        assert torch.equal(tensor, kept[name]), name


def test_faithful_refuses_by_name_what_no_program_can_follow() -> None:
    module, _, _ = accelerated(small(), [inputs()])

    def refused(words: Any, error: Any = UnfaithfulError) -> None:
        module.begin()
        with pytest.raises(error, match=words):
            module(**inputs())

    handle = module.mid_block.register_forward_hook(lambda *_: None)
    refused(r"UNetMidBlock2DCrossAttn 'mid_block' has the forward hook <lambda>")
    handle.remove()
    module.mid_block.attentions[0].dropout = nn.Dropout(0.5)
    module.train()
    refused("is in training mode")
    module.eval()
    diffusers.hooks.apply_layerwise_casting(
        module.mid_block, storage_dtype=torch.float16, compute_dtype=torch.float32
    )
    refused("has the diffusers hook layerwise_casting")


@pytest.mark.parametrize(
    "kind", ["PyramidAttentionBroadcastConfig", "FirstBlockCacheConfig", "TaylorSeerCacheConfig"]
)
def test_faithful_refuses_caches(kind: Any) -> None:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    call = {
        "hidden_states": torch.randn(1, 4, 4),
        "encoder_hidden_states": torch.randn(1, 5, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.randn(4, 3),
        "txt_ids": torch.zeros(5, 3),
    }
    accelerate(transformer, open_run=Opened(), scales={})
    arguments = {"current_timestep_callback": lambda: 1} if kind.startswith("Pyramid") else {}
    transformer.enable_cache(getattr(diffusers, kind)(**arguments))
    with pytest.raises(UnfaithfulError, match=r"has the diffusers hook .*disable_cache"):
        transformer(**call)


def test_faithful_refuses_freeu_by_its_operations() -> None:
    module, _, _ = accelerated(small(), [inputs()])
    module(**inputs())
    module.enable_freeu(s1=0.2, s2=0.2, b1=1.5, b2=1.6)
    module.begin()
    live = restore(copy.deepcopy(module))
    with pytest.raises(LoweringError, match="fft"):
        fidelity(module, live, **inputs())
    module.disable_freeu()
    assert fidelity(module, restore(copy.deepcopy(module)), **inputs()) > FAITHFUL_DB


def test_faithful_refuses_modules_that_draw_random_numbers_or_keep_state() -> None:
    class Noisy(nn.Linear):
        def forward(self, input: Any) -> Any:
            return super().forward(input) + torch.randn(3, 8)

    class Counting(nn.Linear):
        calls: torch.Tensor

        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, input: Any) -> Any:
            self.calls += 1
            return super().forward(input) + self.calls

    for module, words in (
        (Noisy(8, 8), "draws random numbers"),
        (Counting(), "changes calls when it is called"),
    ):
        with pytest.raises(CaptureError, match=words):
            accelerate(module.eval(), open_run=Opened(), calibration={"input": torch.randn(3, 8)})


# --- the user's module ----------------------------------------------------------------------------------------------------


def pipeline(scheduler: Any = "DDIMScheduler") -> Any:
    unet = build("unet")
    return diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()), unet


def on_golden_pipe(pipe: Any, **settings: Any) -> Any:
    opened = Opened()
    accelerate(pipe, open_run=opened, calibration={"num_inference_steps": 2}, **settings)
    pipe.set_progress_bar_config(disable=True)
    return opened


def test_faithful_pipelines_save_what_they_were(tmp_path: Path) -> None:
    pipe, unet = pipeline()
    before = {n: t.clone() for n, t in unet.state_dict().items()}
    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    opened = on_golden_pipe(pipe)
    assert pipe.unet is unet
    pipe(num_inference_steps=1)
    pipe.save_pretrained(tmp_path)
    pipe(num_inference_steps=1)
    assert opened.programs == 1
    again = diffusers.DDIMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert type(again.unet) is diffusers.UNet2DModel
    for key, value in config.items():
        assert again.unet.config[key] == (list(value) if isinstance(value, tuple) else value), key
    for name, tensor in again.unet.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert [n for n, _ in unet.named_parameters()] == [n for n, _ in again.unet.named_parameters()]
    assert (unet.dtype, unet.device, unet.num_parameters()) == (
        torch.float32,
        torch.device("cpu"),
        again.unet.num_parameters(),
    )
    torch.save(unet, tmp_path / "unet.pt")
    assert type(torch.load(tmp_path / "unet.pt", weights_only=False)) is diffusers.UNet2DModel


def test_faithful_copies_compute_with_their_own_weights() -> None:
    pipe, _ = pipeline()
    opened = on_golden_pipe(pipe)
    other = copy.deepcopy(pipe)
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.mul_(1.1)
    call = {"sample": torch.randn(1, 1, 16, 16), "timestep": torch.tensor(500)}
    for module in (pipe.unet, other.unet):
        assert fidelity(module, restore(copy.deepcopy(module)), **call) > FAITHFUL_DB
    assert opened.programs == 2
    other(num_inference_steps=2)
    assert other.unet.finish().steps == 2


def test_faithful_a_new_scheduler_is_a_new_generation() -> None:
    pipe, _ = pipeline()
    opened = on_golden_pipe(pipe)
    pipe(num_inference_steps=3)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe(num_inference_steps=2)
    pipe(num_inference_steps=2)
    shared = diffusers.DDIMPipeline(pipe.unet, diffusers.DDIMScheduler())
    shared.set_progress_bar_config(disable=True)
    shared(num_inference_steps=3)
    pipe.unet.finish()
    assert [g.steps for g in pipe.unet.generations] == [3, 2, 2, 3]
    assert len(opened.runs) == 4


def test_faithful_a_sampler_whose_time_rises_is_one_generation() -> None:
    module, _, opened = accelerated(small(), [inputs()])
    for _ in range(2):
        for step in range(5):
            module(**{**inputs(), "timestep": torch.tensor(100 * step)})
    assert [run.seen.steps for run in opened.runs] == [1, 4, 5]


def test_faithful_any_component_by_name() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, timestep_ratio: Any) -> Any:
            return self.inner(x) * timestep_ratio

    class Odd(diffusers.DiffusionPipeline):
        def __init__(self, prior: Any, decoder: Any) -> None:
            super().__init__()
            self.register_modules(prior=prior, decoder=decoder)

        def __call__(self, x: torch.Tensor) -> Any:
            return self.decoder(self.prior(x, torch.tensor(0.5)))

    x = torch.randn(4, 8)
    for parts, count in ((None, 1), (["decoder"], 1), (["prior", "decoder"], 2)):
        pipe = Odd(Stage().eval(), nn.Sequential(nn.Linear(8, 8), nn.SiLU()).eval())
        expected, opened = pipe(x), Opened()
        accelerate(pipe, parts=parts, open_run=opened, calibration={"x": x})
        assert snr_db(expected, pipe(x)) > FAITHFUL_DB
        assert len(opened.runs) == count
    with pytest.raises(TypeError, match=r"Odd has no module 'unet'; it has prior, decoder"):
        accelerate(pipe, parts=["unet"])


def test_faithful_keeps_every_output_and_its_class() -> None:
    @dataclasses.dataclass
    class Both:
        sample: torch.Tensor
        features: tuple[torch.Tensor, ...]
        note: str = "kept"

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, sample: torch.Tensor, return_dict: Any = True) -> Any:
            features = torch.relu(self.inner(sample))
            found = self.head(features)
            return Both(found, (features, sample)) if return_dict else (found, features)

    sample = torch.randn(3, 8)
    module, live, _ = accelerated(
        Two().eval(), [{"sample": sample}, {"sample": sample, "return_dict": False}]
    )
    got, expected = module(sample), live(sample)
    assert isinstance(got, Both)
    assert got.note == "kept"
    assert snr_db(expected.sample, got.sample) > FAITHFUL_DB
    assert snr_db(expected.features[0], got.features[0]) > FAITHFUL_DB
    assert torch.equal(expected.features[1], got.features[1])
    assert len(module(sample, return_dict=False)) == 2


def test_faithful_two_threads_on_one_denoiser() -> None:
    module, live, opened = accelerated(small(), [inputs(s) for s in range(4)])
    found: dict[int, list[float]] = {0: [], 1: []}

    def work(thread: Any) -> None:
        for step in range(4):
            call = {**inputs(step), "sample": inputs(step)["sample"] * (1 - 2 * thread)}
            with torch.no_grad():
                found[thread].append(snr_db(live(**call)[0], module(**call)[0]))

    threads = [threading.Thread(target=work, args=(n,)) for n in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(found[0] + found[1]) > FAITHFUL_DB
    assert [run.seen.steps for run in opened.runs] == [4, 4]
    module.finish()
    assert [g.steps for g in module.generations] == [4, 4]


# --- half precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_faithful_other_float_types_come_back(dtype: Any) -> None:
    module = small().to(dtype)
    calls = [{n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs(s).items()} for s in range(2)]
    module, live, _ = accelerated(module, calls)
    for call in calls:
        got = module(**call)
        assert got.sample.dtype == dtype
        assert snr_db(live(**call).sample, got.sample) > FAITHFUL_DB
    assert {p.dtype for p in module.parameters()} == {dtype}


def test_faithful_a_module_that_changes_its_type() -> None:
    module, _, _ = accelerated(small(), [inputs()])
    module(**inputs())
    module.to(torch.bfloat16)
    call = {n: t.to(torch.bfloat16) if t.is_floating_point() else t for n, t in inputs().items()}
    module.begin()
    got = module(**call).sample
    assert got.dtype is torch.bfloat16
    assert snr_db(restore(copy.deepcopy(module))(**call).sample, got) > FAITHFUL_DB


# --- the verdict ----------------------------------------------------------------------------------------------------------


def test_faithful_verdict_states_decibels_and_fails_below_its_floor() -> None:
    calls = [inputs(s) for s in range(2)]
    with LocalDevice(["--backend", "model"]) as device:
        module = accelerate(
            small(),
            backend="model",
            chip="tiny",
            connect_to=device,
            verify=True,
            snr_steps=(0, 1),
            calibration=lambda m: [m(**c) for c in calls],
        )
        for call in calls:
            module(**call)
        verdict = module.finish().verdict
        assert verdict.bit_identical
        assert set(verdict.snr_by_step) == {0, 1}
        assert verdict.snr_db > FAITHFUL_DB
        module.settings.snr_floor_db = 90
        module.begin()
        with pytest.raises(
            FidelityError, match=r"step 0 is .* dB from the fp32 denoiser.*the floor is 90 dB"
        ):
            module(**calls[0])


def test_faithful_plain_objects_with_a_denoiser_are_pipelines_too() -> None:
    target = SimpleNamespace(unet=build("unet"), scheduler=None)
    call = {"sample": torch.randn(1, 1, 16, 16), "timestep": torch.tensor(5)}
    accelerate(target, open_run=Opened(), calibration=lambda t: t.unet(**call))
    assert fidelity(target.unet, restore(copy.deepcopy(target.unet)), **call) > FAITHFUL_DB


def test_faithful_dropped_weights_leave_the_program_and_refuse_the_rest(tmp_path: Path) -> None:
    module, live, opened = accelerated(small(), [inputs(s) for s in range(2)], keep_weights=False)
    for step in range(2):
        assert fidelity(module, live, **inputs(step)) > FAITHFUL_DB
    assert len(opened.runs) == 1
    assert opened.programs == 1
    assert sum(p.untyped_storage().nbytes() for p in module.parameters()) < 1000
    assert module.dtype is torch.float32
    with pytest.raises(UnfaithfulError, match=r"weights were dropped.*load it again to save"):
        module.save_pretrained(tmp_path)
    with pytest.raises(UnfaithfulError, match="other shapes or arguments needs another program"):
        module(**inputs(batch=1))


def test_faithful_verdict_tells_what_caching_leaves_out_apart() -> None:
    """Decibels of increments are stated beside those of full steps, and no floor holds what is left out by choice."""
    module, calls = build("dit"), calibrated("dit")[1]
    accelerated = accelerate(
        module,
        backend="model",
        chip="tiny",
        verify=True,
        snr_floor_db=25,
        cache=Cache("reuse", 3),
        calibration=lambda m: [m(**call) for call in calls],
    )
    torch.manual_seed(0)
    try:
        for step in range(3):
            sample = torch.randn(calls[0]["hidden_states"].shape)  # nothing like the step before
            accelerated(**{**calls[step], "hidden_states": sample})
        verdict = accelerated.finish().verdict
    finally:
        accelerated.shut_down()
    assert verdict.bit_identical
    assert set(verdict.snr_by_step) == {0}
    assert set(verdict.increment_snr_by_step) == {2}
    assert verdict.increment_snr_db < 25 < verdict.snr_db


# --- what decides shapes ---------------------------------------------------------------------------------------------------


class Picking(nn.Module):
    """Goes on with the tokens that are open, by whatever name; places its rows where numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, sample: torch.Tensor, timestep: Any, which: torch.Tensor, places: Any = None) -> Any:
        found = self.first(sample)[:, which]
        if places is not None:
            found = torch.zeros_like(sample).index_copy(1, places, found)
        return self.second(found)


def test_faithful_to_numbers_and_masks_that_decide_shapes_whatever_they_are_called() -> None:
    which = torch.tensor([True, False, True, True])
    places = torch.tensor([2, 0, 3])
    samples = [torch.randn(2, 4, 8) for _ in range(3)]
    calls = [{"sample": s, "timestep": 9 - i, "which": which} for i, s in enumerate(samples)]
    more = {"which": which.roll(1), "places": places}
    module, live, opened = accelerated(Picking().eval(), [*calls, {**calls[0], **more}])
    for call in calls:
        for others in ({}, more, {"which": ~which}):
            assert fidelity(module, live, **{**call, **others}) > FAITHFUL_DB - 5
    assert opened.programs == 3


# --- code and names ---


SCALES = {"out": 1.0}


def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * SCALES["out"]


class Named(nn.Module):
    """Reads names of its module, and calls a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, sample: torch.Tensor) -> Any:
        return self.head(scaled(self.first(sample)))


def _other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCALES, "out", -3.0)


def _other_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Named, "head", lambda self, x: -x)


def _other_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "scaled", lambda x: -2 * x)


@pytest.mark.parametrize("change", [_other_name, _other_method, _other_function])
def test_faithful_to_code_and_names_that_change(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, live, opened = accelerated(Named().eval(), [{"sample": torch.randn(4, 8)}])
    sample = torch.randn(4, 8)
    assert fidelity(module, live, sample=sample) > FAITHFUL_DB
    change(monkeypatch)
    assert fidelity(module, live, sample=sample) > FAITHFUL_DB
    assert opened.programs == 2


def test_faithful_inside_a_compiled_pipeline() -> None:
    """torch.compile around an accelerated denoiser leaves the device's call alone."""
    module, live, opened = accelerated(small(), [inputs()])
    compiled = torch.compile(module, backend="eager")
    with torch.no_grad():
        assert snr_db(live(**inputs())[0], compiled(**inputs())[0]) > FAITHFUL_DB
    assert len(opened.runs) == 1


def test_faithful_refuses_torchscript() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8)))
    with pytest.raises(TypeError, match="this module is TorchScript"):
        accelerate(scripted, scales={}, open_run=Opened())


# --- calibration -----------------------------------------------------------------------------------------------------------


class Growing(nn.Module):
    """Its inputs grow a hundredfold from step to step, so that every step needs a grid of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, sample: torch.Tensor, timestep: Any) -> Any:
        return self.first(sample)


def _growing(step: int) -> dict[str, Any]:
    return {"sample": (2 * torch.rand(64, 8) - 1) * 100.0**step, "timestep": 900 - 100 * step}


@pytest.mark.parametrize("generations", [1, 3])
def test_faithful_scales_of_a_step_are_met_in_that_step(generations: int) -> None:
    """However many generations calibration saw, and without a scheduler to say how long one is."""
    calls = [_growing(step) for _ in range(generations) for step in range(4)]
    module, live, _ = accelerated(Growing().eval(), calls)
    for step in range(4):
        assert fidelity(module, live, **_growing(step)) > FAITHFUL_DB


def test_faithful_says_that_inputs_go_beyond_what_was_calibrated(caplog: pytest.LogCaptureFixture) -> None:
    module, _, _ = accelerated(Growing().eval(), [_growing(0), _growing(0)])
    module(torch.ones(64, 8), 800)
    assert not [r for r in caplog.records if r.name == "ditto.host"]
    module.begin()
    module(torch.ones(64, 8) * 40, 900)
    module(torch.ones(64, 8) * 40, 800)
    (said,) = [r.getMessage() for r in caplog.records if r.name == "ditto.host"]
    assert "made from other inputs: sample reaches 40 (it saw" in said
