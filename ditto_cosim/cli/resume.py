# SPDX-License-Identifier: Apache-2.0
"""`ditto resume`: goes on with a run that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def resume(
    run: Annotated[Path, typer.Argument(help="Directory of the run")],
    connect: Annotated[
        str,
        typer.Option(help="Address of a device; default: where the run found its own, if on this machine"),
    ] = "",
    keys: Annotated[
        Path | None, typer.Option(help="Keys for a device on another machine (`ditto keys`)")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="For a run on a backend of your own: name it again, since a record may be anybody's"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables")] = False,
) -> None:
    """Go on with a run that was interrupted, behind its last whole step: the same picture, cycles and report.

    Whatever ended it: Ctrl-C, a signal, a full disk, a killed process. A run that is complete is told again.
    """
    from ditto_cosim.cli.generate import quiet, tell
    from ditto_cosim.cli.progress import watching

    with quiet(as_json) as say:
        say(f"resuming {run}")
        from ditto_cosim.apart import appraise_apart
        from ditto_cosim.host.resume import resume_run

        with watching(as_json) as watcher:
            outcome = resume_run(
                run,
                trusted=backend or (),
                watcher=watcher,
                connect_to=connect,
                keys=keys,
                appraise=appraise_apart,
            )
        tell(outcome, as_json, say)
