# SPDX-License-Identifier: Apache-2.0
"""`ditto device`, `ditto keys`, `ditto conform`: the device as a process, its keys, and the check of a backend."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ditto_cosim.cli.output import emit


def device(
    bind: Annotated[str, typer.Option(help="Address to listen on: ipc://PATH or tcp://HOST:PORT.")] = "",
    backend: Annotated[str, typer.Option(help="Backend of runs that name none, or module:Class.")] = "",
    offer: Annotated[
        list[str] | None, typer.Option(help="A further backend hosts may name: module:Class.")
    ] = None,
    design: Annotated[str, typer.Option(help="Design of runs that name none.")] = "",
    chip: Annotated[str, typer.Option(help="Chip of runs that name none: a preset or a TOML file.")] = "",
    keys: Annotated[Path | None, typer.Option(help="Directory made by `ditto keys`.")] = None,
    idle_s: Annotated[float | None, typer.Option(help="Silence after which a host loses its runs.")] = None,
    runs: Annotated[int | None, typer.Option(help="Most runs of a host at once.")] = None,
    hosts: Annotated[
        int | None, typer.Option(help="Most hosts at once; each has a process of its own.")
    ] = None,
    run_bytes: Annotated[int | None, typer.Option(help="Memory limit of one run.")] = None,
    store_bytes: Annotated[int | None, typer.Option(help="Memory for constants, all runs of a host.")] = None,
    host_bytes: Annotated[
        int | None,
        typer.Option(help="Memory of one host's process; by default three quarters of the machine's."),
    ] = None,
    progress_s: Annotated[
        float | None,
        typer.Option(help="A product may take so long, and a second more a million multiplications."),
    ] = None,
    log_level: Annotated[
        str, typer.Option(help="debug, info, warning or error; the log goes to stderr.")
    ] = "info",
) -> None:
    """Run a device that hosts connect to, until Ctrl-C. Its log is JSON, a line an event, on stderr."""
    from ditto_cosim.device.__main__ import main

    given = {
        "--bind": bind,
        "--backend": backend,
        "--design": design,
        "--chip": chip,
        "--keys": keys,
        "--idle-s": idle_s,
        "--runs": runs,
        "--run-bytes": run_bytes,
        "--store-bytes": store_bytes,
        "--hosts": hosts,
        "--host-bytes": host_bytes,
        "--progress-s": progress_s,
        "--log-level": log_level,
    }
    options = [
        text for name, value in given.items() if value not in ("", None) for text in (name, str(value))
    ]
    raise typer.Exit(main([*options, *(text for name in offer or () for text in ("--offer", name))]))


def keys(
    directory: Annotated[Path, typer.Argument(help="Where to write them.")],
    host: Annotated[str, typer.Option(help="Name of the host that is to be admitted.")] = "host",
) -> None:
    """Make a device's key pair and a host's, so that they may talk across machines."""
    from ditto_cosim.protocol.security import make_keys

    for path in make_keys(directory, host):
        typer.echo(f"wrote {path}")
    typer.echo(
        f"\nOn the device:  ditto device --bind tcp://*:5590 --keys {directory}\n"
        f"On {host}:  a directory with {host}.key_secret (move it there) and device.key (copy it), "
        "then --keys that directory"
    )


def conform(
    backend: Annotated[str, typer.Argument(help="Name of a backend, or module:Class.")],
    chip: Annotated[str, typer.Option(help="Chip it is made for: a preset or a TOML file.")] = "tiny",
    seconds: Annotated[
        float, typer.Option(help="So long more, random products, for a statement on how seldom it fails.")
    ] = 0.0,
    progress_s: Annotated[
        float, typer.Option(help="A product may take so long, and a second more a million multiplications.")
    ] = 60.0,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML for a build server into this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Check a backend against everything a device needs of it; exit status 1 if it fails. It runs in a process of its own, so
    that a board that hangs or crashes is a finding too."""
    from ditto_cosim.device.backends.conformance import Finding, check_apart
    from ditto_cosim.device.chips import load_chip

    load_chip(chip)

    def show(finding: Finding) -> None:
        if not as_json:
            typer.echo(f"{'ok  ' if finding.passed else 'FAIL'}  {finding.check:12s}  {finding.text}")

    report = check_apart(backend, chip, seconds=seconds, progress_s=progress_s, on_finding=show)
    rate = report.excluded_fault_rate
    if as_json:
        found = {
            "backend": backend,
            "chip": chip,
            "findings": [asdict(finding) for finding in report.findings],
            "values": report.values,
            "excluded_fault_rate": rate,
            "verdict": report.verdict,
        }
        emit("conform", found, indent=1)
    else:
        typer.echo(f"{backend} on {chip}: {report.verdict}, {report.values:,} values compared")
        if rate is not None:
            typer.echo(f"a share of wrong values above {rate:.1g} is excluded with 95 % certainty")
    if junit is not None:
        from ditto_cosim.cli.junit import JUnitCase, write_junit

        cases = [JUnitCase(f.check, "" if f.passed else f.text, f.text) for f in report.findings]
        write_junit(junit, f"ditto conform {backend}", cases)
    raise typer.Exit(0 if report.passed else 1)
