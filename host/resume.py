# SPDX-License-Identifier: Apache-2.0
"""Goes on with a run that was interrupted, from its directory alone: `ditto resume RUN`.

    outcome = resume_run(Path("runs/try"))          as `generate_run` would have given

The recipe is in the record; recorded steps are answered from it, so the pipeline's own state comes back by itself, and the
device goes on behind the last of them (`pipeline/run.py`). What this file does not do: compute or compare anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ditto_cosim.host.compiler.cache import Cache
from ditto_cosim.host.generation import Outcome, Watcher, generate_run
from ditto_cosim.host.pipeline.models import Wish, load_model
from ditto_cosim.host.pipeline.run import ResumeError
from ditto_cosim.host.report.prices import Prices
from ditto_cosim.protocol.record import RunRecord


def resume_run(
    directory: Path,
    *,
    watcher: Watcher | None = None,
    connect_to: str = "",
    keys: Path | None = None,
    appraise: Callable[[Path], Prices] | None = None,
) -> Outcome:
    """The rest of a run and everything it leaves, the same as if it had never been interrupted. A device is found where the
    run found it, unless another address is given."""
    record = RunRecord(directory)
    recipe = record.info.extra.get("recipe")
    if not isinstance(recipe, Mapping):
        raise ResumeError(
            f"{directory}: its record does not say how it was made; only runs of `ditto generate` can be resumed"
        )
    try:
        lists = {k: tuple(v) for k, v in recipe["wish"].items() if isinstance(v, list)}
        wish, options = Wish(**{**recipe["wish"], **lists}), dict(recipe.get("options", {}))
        settings: dict[str, Any] = dict(recipe["settings"])
        chosen = {k: recipe[k] for k in ("backend", "chip", "design", "command", "policy", "observer")}
        name, folder, scales = recipe["model"], recipe["folder"], recipe["scales"]
        cache = Cache.of(recipe.get("cache"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ResumeError(
            f"{directory}: its recipe cannot be read ({type(error).__name__}: {error}); run it again"
        ) from None
    if connect_to:
        settings |= {"connect_to": connect_to}
    if keys is not None or settings.get("keys"):
        settings |= {"keys": keys or Path(settings["keys"])}
    settings["rtl_layers"] = tuple(settings.get("rtl_layers") or ())
    model = replace(load_model(folder or name, **options), name=name)
    return generate_run(
        model,
        wish,
        directory,
        watcher=watcher,
        scales=None if scales is None else Path(scales),
        plan=str(recipe.get("plan", "")),
        cache=cache,
        resume=True,
        fp32=bool(recipe.get("fp32")),
        appraise=appraise,
        **chosen,
        **settings,
    )
