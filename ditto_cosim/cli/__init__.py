# SPDX-License-Identifier: Apache-2.0
"""The command `ditto`: a table of subcommands, each imported when it is called.

`ditto --help` imports none of them, so it answers at once. Exit statuses, of every command:
    0     done, and what was checked holds
    1     a check failed: verification, regression, conformance, a finding of `doctor`
    2     what was asked cannot be done; one sentence says why and what to do
    3     no verdict: a check that came not far enough, or a fault of ours, with a traceback
    130   interrupted by Ctrl-C (143: by SIGTERM); what is complete is on disk
DITTO_DEBUG=1 shows the traceback of every error and has the device log everything.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ditto_cosim.cli.completion import VARIABLE, start_completion
from ditto_cosim.cli.examples import epilog_of
from ditto_cosim.cli.plain_text import speak_ascii
from ditto_cosim.protocol.errors import debugging, is_ours
from ditto_cosim.protocol.streams import open_streams
from ditto_cosim.protocol.suggest import did_you_mean

GROUPS = ("Run", "Look", "Hardware", "Device", "Measure", "Help")


@dataclass(frozen=True)
class _Entry:
    group: str
    target: str
    """`module:attribute`: a typer app, or a function that becomes a command."""
    help: str


COMMANDS: dict[str, _Entry] = {
    "generate": _Entry("Run", "generate:generate", "Generate pictures through the emulated accelerator"),
    "resume": _Entry("Run", "resume:resume", "Go on with a run that was interrupted"),
    "farm": _Entry("Run", "farm:farm", "Runs of many models and seeds, here or on many machines"),
    "models": _Entry("Run", "models:models", "List the models that ship and the paper's workloads"),
    "compile": _Entry(
        "Run", "models:compile_model", "Compile a model's denoiser into a program, and save it"
    ),
    "calibrate": _Entry("Run", "models:calibrate", "Choose a model's 8-bit scales from real trajectories"),
    "factor": _Entry("Run", "factor:factor", "Factorise a transformer's layers for --cache icc"),
    "data": _Entry("Run", "models:data", "Fetch a training data set through the package clients"),
    "report": _Entry("Look", "models:report", "Show a finished run again"),
    "diff": _Entry("Look", "diff:diff", "Two runs: values, pictures, cycles by layer and cause, energy"),
    "trace": _Entry("Look", "trace:trace", "From a pixel to a row in the RTL, with its waveform"),
    "timeline": _Entry("Look", "timeline:timeline", "Steps of a run in transactions, for Perfetto"),
    "show": _Entry("Look", "show:app", "Print what flows: a program, a record, one layer of a run"),
    "analyze": _Entry("Look", "analyze:analyze", "Similarity, ranges, bit widths and BOPs of a run"),
    "quality": _Entry("Look", "analyze:quality", "What int8 costs: Fréchet distance and class scores"),
    "price": _Entry("Look", "price:price", "Price a recorded run under another design or chip"),
    "compare": _Entry("Look", "price:compare", "All designs side by side on one recorded run"),
    "sweep": _Entry("Look", "sweep:sweep", "Any field of chip and design, within limits: what nothing beats"),
    "whatif": _Entry("Look", "price:whatif", "What bounds each layer, what would next, what doubling gains"),
    "export": _Entry("Look", "price:export", "A run's memory requests and layers for other simulators"),
    "paper": _Entry("Look", "price:paper", "Hold the paper's claims against this model of it"),
    "study": _Entry("Look", "study:app", "Hold the claims of SQ-DM and ICC against this model of them"),
    "chips": _Entry("Hardware", "hardware:chips", "List the chips, or print every parameter of one"),
    "designs": _Entry("Hardware", "hardware:designs", "List the designs, or print every parameter of one"),
    "backends": _Entry("Hardware", "hardware:backends", "List who can compute a layer's products"),
    "rtl": _Entry("Hardware", "rtl_trust:app", "Build, test, replay, mutate, prove and synthesise the RTL"),
    "device": _Entry("Device", "device:device", "Run a device that hosts connect to"),
    "keys": _Entry("Device", "device:keys", "Make the keys for a device on another machine"),
    "conform": _Entry("Device", "device:conform", "Check a backend against everything a device needs of it"),
    "board": _Entry("Device", "board:app", "Boards behind a serial line: list, test, load, simulate"),
    "bench": _Entry("Measure", "bench:bench", "Measure speed: rtl, model, generate, wire, price, …"),
    "doctor": _Entry("Help", "doctor:doctor", "Look for what this machine lacks, and say the remedy"),
    "completion": _Entry("Help", "completion:completion", "Print the completion script of bash, zsh or fish"),
}


class _Ditto(TyperGroup):
    """Finds subcommands in the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        found = getattr(importlib.import_module(f"ditto_cosim.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(**_PLAIN)
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        _show_examples(command, cmd_name)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(
                f"No such command {args[0]!r}{did_you_mean(args[0], COMMANDS)}. `ditto --help` lists them."
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from typer._click.shell_completion import CompletionItem

        return [CompletionItem(n, help=e.help) for n, e in COMMANDS.items() if n.startswith(incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl([(n, e.help) for n, e in COMMANDS.items() if e.group == group])


def _show_examples(command: Any, name: str) -> None:
    """Ends the help of a command, and of those below it, with what to type."""
    command.epilog = epilog_of(name) or command.epilog
    for below, inner in getattr(command, "commands", {}).items():
        _show_examples(inner, f"{name} {below}")


_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
root = typer.Typer(
    cls=_Ditto,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `ditto generate`: it makes a picture and says where picture and report are. "
    "Something is missing? `ditto doctor`. DITTO_DEBUG=1 shows tracebacks and has devices log every message. "
    "Exit status: 0 done, 1 a check failed, 2 cannot be done as asked, 3 no verdict or a fault of ours.",
    **_PLAIN,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ditto {version('ditto-cosim')}")
        raise typer.Exit


@root.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hardware-in-the-loop co-simulation of the Ditto diffusion accelerator.

    A host runs a diffusers pipeline; a device process computes its denoiser on Verilated RTL; the picture is
    bit-identical to an independent int8 reference, and every cycle is accounted for.
    """


def main() -> None:
    """Entry point of the `ditto` script."""
    open_streams()
    signal.signal(signal.SIGTERM, _terminate)
    speak_ascii()
    if VARIABLE in os.environ:
        start_completion()
    if debugging():
        from ditto_cosim.device.process import log_to_stderr

        log_to_stderr("warning")
    try:
        root(prog_name="ditto")
    except _Terminated:
        _end("terminated", 143)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except MemoryError as error:
        _end(f"error: out of memory ({error}); what was completed is on disk", 2)
    except Exception as error:
        ours = is_ours(error)
        if ours or debugging():
            traceback.print_exc()
        if ours:
            _end(f"error: {error}\n{_REPORT.format(command=shlex.join(['ditto', *sys.argv[1:]]))}", 3)
        _end(f"error: {error}", 2)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does, what is complete kept."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated("terminated by SIGTERM")


_REPORT = """
This is a fault of ditto-cosim, not yours. Please report it with the traceback above, the output of `ditto --version`, and
what you typed: {command}"""


def _end(text: str, status: int) -> None:
    from ditto_cosim.protocol.errors import printable

    print(printable(text), file=sys.stderr)
    sys.exit(status)
