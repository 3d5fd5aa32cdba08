# SPDX-License-Identifier: Apache-2.0
"""Programs kept between processes: found again for the same module alone, and never another's."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models import attention_processor, resnet

from ditto_cosim.host.analysis.quality import on_golden
from ditto_cosim.host.compiler.arguments import Call
from ditto_cosim.host.compiler.quantize import Grid
from ditto_cosim.host.pipeline import denoiser, programs
from ditto_cosim.host.pipeline.fingerprint import lasting
from support.small_denoiser import Denoiser


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DITTO_PROGRAMS", "on")
    monkeypatch.setenv("DITTO_CACHE", str(tmp_path))
    return tmp_path / "programs"


def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


X = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


@functools.cache
def scales() -> dict[str, Grid]:
    """Of that network."""
    module: Any = unet()
    on_golden(module, calibration={"sample": X, "timestep": 9})
    return dict(module.grids)


def images(module: Any) -> torch.Tensor:
    """Two steps by the program, or by one that was kept."""
    on_golden(module, scales=scales())
    with torch.no_grad():
        return torch.stack([module(X + 0.01 * t, 9 - t).sample for t in range(2)])


def test_second_session_compiles_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = images(unet())
    assert len([f for f in kept.iterdir() if f.is_dir()]) == 1
    monkeypatch.setattr(denoiser, "capture_call", None)
    assert torch.equal(images(unet()), first)


def test_another_process_has_the_same_key() -> None:
    """Two of their own: what ran here before may have patched torch, as transformers does when it makes a model."""
    told = "from tests.unit.test_programs import *; module = unet(); print(lasting(module, module.forward))"
    root = Path(__file__).parents[2]
    paths = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    others = [
        subprocess.Popen(
            [sys.executable, "-c", told],
            cwd=root,
            env={**paths, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, two = (other.communicate()[0].strip() for other in others)
    assert one == two
    assert len(one) == 64, "SHA-256"


def test_damaged_program_is_made_again(kept: Path) -> None:
    first = images(unet())
    (file,) = kept.rglob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    assert torch.equal(images(unet()), first)
    (again,) = kept.rglob("*.safetensors")
    assert again.read_bytes() != bytes(data)


def test_call_that_was_altered_is_no_program_s(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands beside the program, too: which results, of which type, in which class."""
    first = images(unet())
    (file,) = kept.rglob("call.json")
    file.write_text(file.read_text().replace("float32", "float64"))
    assert torch.equal(again := images(unet()), first)
    assert again.dtype == first.dtype
    file.write_text("[" * 100_000)
    assert torch.equal(images(unet()), first)


def test_program_of_another_key_is_none(kept: Path) -> None:
    """Whole files in the wrong place: a kept program's alone, or with what stands beside it."""
    first = images(unet())
    (mine,) = (f.parent for f in kept.rglob("call.json"))
    other: Any = unet()
    with torch.no_grad():
        other.conv_out.weight.mul_(2)
    images(other)
    (others,) = (f.parent for f in kept.rglob("call.json") if f.parent != mine)
    for names in (("program.safetensors",), ("program.safetensors", "call.json")):
        for name in names:
            (mine / name).write_bytes((others / name).read_bytes())
        assert torch.equal(images(unet()), first)


def key(module: Any, **more: Any) -> str | None:
    signature = inspect.signature(module.forward)
    call = Call.of(signature, (X, 9), more)
    return programs.key_of(module, module.forward, call, scales(), None, (), (), 0)


class Doubled(resnet.ResnetBlock2D):
    """Nobody's release."""


def weight(module: Any) -> None:
    next(module.parameters()).data[0] += 1e-3


def attribute(module: Any) -> None:
    module.mid_block.resnets[0].output_scale_factor = 2.0


def processor(module: Any) -> None:
    module.mid_block.attentions[0].set_processor(attention_processor.AttnProcessor())


def dtype(module: Any) -> None:
    module.half()


@pytest.mark.parametrize("change", [weight, attribute, processor, dtype])
def test_changed_module_has_another_key(change: Callable[[Any], None]) -> None:
    module = unet()
    before = key(module)
    assert before is not None
    assert key(copy.deepcopy(module)) == before
    change(module)
    assert key(module) not in (None, before)


class Callable2:
    def __call__(self, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("home", "name", "patch"),
    [
        (resnet.ResnetBlock2D, "forward", lambda own: lambda *a, **k: 2 * own(*a, **k)),
        (resnet.ResnetBlock2D, "forward", lambda own: functools.wraps(own)(lambda *a, **k: 2 * own(*a, **k))),
        (resnet.ResnetBlock2D, "forward", lambda own: functools.partialmethod(own, x=1)),
        (torch.nn.functional, "silu", lambda own: lambda x, inplace=False: own(x) + 1),
        (torch.nn.functional, "silu", lambda own: functools.partial(own, inplace=True)),
        (torch.nn.functional, "silu", lambda own: Callable2()),
        (torch.nn.functional, "silu", lambda own: torch.sigmoid),
        (torch.nn.functional, "silu", lambda own: torch.nn.functional.relu),
        (torch.nn.functional, "conv2d", lambda own: torch.conv_transpose2d),
    ],
)
def test_patched_code_has_another_key_or_none(
    monkeypatch: pytest.MonkeyPatch, home: Any, name: str, patch: Callable[[Any], Any]
) -> None:
    """What a patch of nobody's release holds cannot be read, so then there is none."""
    before = key(unet())
    assert before is not None
    with monkeypatch.context() as patched:
        patched.setattr(home, name, patch(getattr(home, name)))
        assert key(unet()) != before
    assert key(unet()) == before


def test_other_calls_have_other_keys() -> None:
    module = unet()
    found = {key(module), key(module, return_dict=False)}
    with torch.autocast("cpu", torch.bfloat16):
        found.add(key(module))
    assert len(found) == 3


def test_code_of_the_user_s_own_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Denoiser()
    assert lasting(own, own.forward) is None
    module = unet()
    module.mid_block.resnets[0].__class__ = Doubled
    assert key(module) is None
    monkeypatch.setenv("DITTO_PROGRAMS", "off")
    assert key(unet()) is None


def test_what_was_not_used_for_longest_goes(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(unet())
    monkeypatch.setattr(programs, "ALL_BYTES", 1)
    module = unet()
    weight(module)
    images(module)
    assert not [f for f in kept.iterdir() if f.is_dir()]
