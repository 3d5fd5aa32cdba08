# SPDX-License-Identifier: Apache-2.0
"""Goes on with a run that was interrupted, from its directory alone: `ditto resume RUN`.

    outcome = resume_run(Path("runs/try"))          as `generate_run` would have given

The recipe is in the record; recorded steps are answered from it, so the pipeline's own state comes back by itself, and the
device goes on behind the last of them (`pipeline/run.py`). A record may come from anywhere: a recipe that names code, a backend
of the user's own, or a device elsewhere is followed where the user names it too. What this file does not do: compute or compare
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import msgspec

from ditto_cosim.host.compiler.cache import Cache
from ditto_cosim.host.generation import Outcome, Watcher, generate_run
from ditto_cosim.host.pipeline.models import Wish, load_model
from ditto_cosim.host.pipeline.recipe import recipe_of
from ditto_cosim.host.pipeline.run import ResumeError
from ditto_cosim.host.report.prices import Prices
from ditto_cosim.protocol.record import RunRecord
from ditto_cosim.protocol.security import is_local


def resume_run(
    directory: Path,
    *,
    trusted: Collection[str] = (),
    watcher: Watcher | None = None,
    connect_to: str = "",
    keys: Path | None = None,
    appraise: Callable[[Path], Prices] | None = None,
) -> Outcome:
    """The rest of a run and everything it leaves, the same as if it had never been interrupted. A device on this machine is
    found where the run found it; another machine's is named again. `trusted` says again which code of the user's own computes the
    layers, where the run had such."""
    record = RunRecord(directory)
    asked = recipe_of(record)
    if asked is None:
        raise ResumeError(
            f"{directory}: its record does not say how it was made; only runs of `ditto generate` can be resumed"
        )
    try:
        Wish(**asked.wish)  # names
        wish, cache = msgspec.convert(asked.wish, Wish), Cache.of(asked.cache)
    except (msgspec.ValidationError, TypeError) as error:
        raise ResumeError(f"{directory}: its recipe cannot be read ({error}); run it again") from None
    code = [name for name in (asked.backend, asked.settings.cross_check) if ":" in name]
    if unnamed := [name for name in code if name not in trusted]:
        raise ResumeError(
            f"{directory}: its layers are computed by code that is not ours, {unnamed[0]}; "
            f"if you trust it, say so: ditto resume {directory} --backend {unnamed[0]}"
        )
    device = asked.settings.connect_to
    if device and not connect_to and not is_local(device):
        raise ResumeError(
            f"{directory}: its device was at {device}, which would be given the model's weights; "
            f"if you trust it, say so: ditto resume {directory} --connect {device}"
        )
    settings = {name: value for name, value in msgspec.structs.asdict(asked.settings).items() if value}
    if connect_to:
        settings |= {"connect_to": connect_to}
    if keys is not None or asked.settings.keys:
        settings |= {"keys": keys or Path(str(asked.settings.keys))}
    chosen = {
        name: getattr(asked, name) for name in ("backend", "chip", "design", "command", "policy", "observer")
    }
    model = replace(
        load_model(asked.folder or asked.model, **msgspec.structs.asdict(asked.options)), name=asked.model
    )
    return generate_run(
        model,
        wish,
        directory,
        watcher=watcher,
        scales=None if asked.scales is None else Path(asked.scales),
        plan=asked.plan,
        cache=cache,
        resume=True,
        fp32=asked.fp32,
        appraise=appraise,
        **chosen,
        **settings,
    )
