# SPDX-License-Identifier: Apache-2.0
"""`ditto completion`: the script that has a shell complete commands, options and names; and the names it completes.

What completes must answer within a keystroke: nothing here imports torch.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

VARIABLE = "_DITTO_COMPLETE"
"""Set by the scripts while a shell asks."""


class Shell(StrEnum):
    """Shells that can complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


WHERE = {
    Shell.bash: 'eval "$(ditto completion bash)"      # in ~/.bashrc',
    Shell.zsh: 'eval "$(ditto completion zsh)"       # in ~/.zshrc, behind compinit',
    Shell.fish: "ditto completion fish | source      # in ~/.config/fish/config.fish",
}


def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish")]) -> None:
    """Print the script that has a shell complete `ditto`: commands, options, models, chips, designs, backends."""
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name="ditto", complete_var=VARIABLE, shell=shell.value))
    if sys.stdout.isatty():
        print(f"\nThis is the script; to use it:  {WHERE[shell]}", file=sys.stderr)


def start_completion() -> None:
    """Readies the classes that answer a shell."""
    from typer._completion_classes import completion_init

    completion_init()


# --- names --------------------------------------------------------------------------------------------------------------


def models(incomplete: str) -> list[str]:
    from importlib import resources

    folder = resources.files("ditto_cosim.host.zoo").joinpath("weights")
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and entry.joinpath("model_index.json").is_file()
    )
    return [name for name in names if name.startswith(incomplete)]


def chips(incomplete: str) -> list[str]:
    from ditto_cosim.device import description

    return [name for name in description.names("chips") if name.startswith(incomplete)]


def designs(incomplete: str) -> list[str]:
    from ditto_cosim.device import description

    return [name for name in description.names("designs") if name.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    from ditto_cosim.device.backends import names

    return [name for name in names() if name.startswith(incomplete)]
