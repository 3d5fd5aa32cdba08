# SPDX-License-Identifier: Apache-2.0
"""What to type: the examples that end every command's help, and that the documentation shows.

One place, so that a test can hold each to the options that there are (`tests/unit/test_cli.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "generate": (
        "ditto generate",
        'ditto generate --model emoji-sd --prompt "smiling cat" --verify',
        "ditto generate --backend model --batch 8 --design ditto_plus --chip edge",
        "ditto generate --model ./my-model --steps 20 --seed 3 --output runs/mine",
        "ditto generate --rtl-dir mine --verify",
        "ditto generate --design sq_dm --scheduler heun --steps 10",
    ),
    "resume": ("ditto resume runs/mine", "ditto resume runs/mine --connect tcp://10.0.0.7:5590 --keys keys"),
    "farm": (
        "ditto farm --seeds 0:7 -- --backend model --steps 10",
        "ditto farm --model fashion-ddpm --model emoji-sd --seeds 0,3 --on ray://10.0.0.7:10001 -o runs/many --json",
    ),
    "models": ("ditto models", "ditto models --json", "ditto models --coverage"),
    "compile": ("ditto compile fashion-ddpm -o fashion-ddpm.safetensors",),
    "calibrate": (
        "ditto calibrate ./my-model",
        "ditto calibrate ./my-model --observer percentile",
        "ditto calibrate fashion-ddpm-relu --plan sq_dm -o plan.json",
    ),
    "factor": (
        "ditto factor fashion-dit",
        "ditto factor fashion-dit --method svd --rank 43 -o svd.safetensors",
        "ditto factor fashion-dit --from data --rank 43 -o data.safetensors",
    ),
    "data": ("ditto data fashion-mnist",),
    "report": ("ditto report runs/demo",),
    "show program": ("ditto show program fashion-ddpm",),
    "show record": ("ditto show record runs/demo", "ditto show record runs/demo --step 3"),
    "show run": ("ditto show run runs/demo --step 3 --layer conv_in",),
    "analyze": ("ditto analyze runs/demo",),
    "quality": ("ditto quality fashion-ddpm",),
    "price": ("ditto price runs/demo --design diffy --chip edge", "ditto price runs/demo --sources --json"),
    "compare": (
        "ditto compare runs/demo",
        "ditto compare runs/full runs/icc runs/reuse --designs itc,ditto",
        "ditto compare runs/demo --designs itc,ditto,mine.toml --robust",
    ),
    "whatif": (
        "ditto whatif runs/demo --layer mid_block --chip paper_twin",
        "ditto whatif runs/demo --chips 2 --in-flight 2 --batch 4",
        "ditto whatif runs/demo --chips 2 --halves --json",
    ),
    "sweep": (
        "ditto sweep runs/demo",
        "ditto sweep runs/demo --vary tile.columns=32,64,128 --vary dram.stacks=1:4 --limit power_w=70 --objective energy_delay",
        "ditto sweep runs/demo --chip edge --vary tile.n_max=64:512:*2 --vary design=itc,ditto --objective cycles,area_mm2",
        "ditto sweep runs/demo --vary tile.tiles=1:128 --vary vector.lanes=64:2048:*2 --sampler tpe --points 200",
        "ditto sweep runs/demo --on ray://10.0.0.7:10001 --json",
    ),
    "export": ("ditto export runs/demo --dram dramsim3 --topology scalesim -o traces",),
    "paper": ("ditto paper", "ditto paper --json", "ditto paper --presets"),
    "diff": ("ditto diff runs/a runs/b", "ditto diff runs/a runs/b --tolerance 0.02 --json"),
    "trace": (
        "ditto trace runs/demo --pixel 30,30",
        "ditto trace runs/demo --pixel 30,30 --step 3 --layer conv_in",
    ),
    "timeline": ("ditto timeline runs/demo --step 3",),
    "study icc": (
        "ditto study icc",
        "ditto study icc --record runs/full --record runs/icc --json",
        "ditto study icc --measure --pictures 16",
    ),
    "study measured": (
        "ditto study measured",
        "ditto study measured --measure --model fashion-dit --seed 1 -o measured.json",
    ),
    "study one_axis": (
        "ditto study one_axis -o axis.html",
        "ditto study one_axis --model fashion-ddpm-relu --json",
        "ditto study one_axis --measure --batch 8 --chip paper_twin",
        "ditto study one_axis --measure --batch 8 --pictures 200 --figures axis.json",
    ),
    "study sq_dm": (
        "ditto study sq_dm",
        "ditto study sq_dm --record runs/sq_dm --json",
        "ditto study sq_dm --record runs/sq_dm --formats",
    ),
    "chips": ("ditto chips", "ditto chips paper_twin", "ditto chips examples/my_chip.toml --json"),
    "designs": ("ditto designs", "ditto designs ditto_plus"),
    "backends": ("ditto backends", "ditto backends rtl"),
    "rtl build": ("ditto rtl build", "ditto rtl build tiny"),
    "rtl test": (
        "ditto rtl test",
        "ditto rtl test --set tiny --rtl-dir mine",
        "ditto rtl test --seconds 60",
    ),
    "rtl wave": ('ditto rtl wave --case "$CASE"',),
    "rtl coverage": ("ditto rtl coverage", "ditto rtl coverage --of sq_dm"),
    "rtl lint": ("ditto rtl lint",),
    "rtl synth": ("ditto rtl synth", "ditto rtl synth --chip tiny --clock"),
    "rtl replay": ("ditto rtl replay runs/demo --step 3 --layer conv_in --row 17",),
    "rtl diff": ("ditto rtl diff --rtl-dir mine",),
    "rtl mutate": ("ditto rtl mutate --count 500",),
    "rtl prove": ("ditto rtl prove",),
    "rtl poke": ("ditto rtl poke encoder k_i=4 open_i=1 valid_i=1 current_i_0=3 tick ready_o",),
    "rtl pnr": ("ditto rtl pnr --board ulx3s --seeds 5",),
    "device": (
        "ditto device --bind tcp://127.0.0.1:5590 --backend rtl",
        "ditto device --bind tcp://*:5590 --keys keys --offer my_board:Board",
    ),
    "keys": ("ditto keys keys --host laptop",),
    "conform": ("ditto conform my_board:Board --chip tiny --seconds 60",),
    "board list": ("ditto board list",),
    "board sim": ("ditto board sim --chip tiny",),
    "board test": ("ditto board test sim",),
    "board load": ("ditto board load build/pnr/ulx3s.bit --board ulx3s",),
    "bench": ("ditto bench model --quick", "ditto bench rtl --json"),
    "doctor": ("ditto doctor", "ditto doctor --json"),
    "completion": (
        'eval "$(ditto completion bash)"',
        'eval "$(ditto completion zsh)"',
        "ditto completion fish | source",
    ),
}


def epilog_of(command: str) -> str:
    """The end of a command's help; empty for one without examples."""
    lines = EXAMPLES.get(command, ())
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
