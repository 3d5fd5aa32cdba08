# SPDX-License-Identifier: Apache-2.0
"""Weights that a folder lacks: what diffusers and transformers say of them while they load, which is all they do about it.

    with missing_weights() as missing:
        DiffusionPipeline.from_pretrained(folder)
    if missing: …                                   a sentence for each model that was filled up with random numbers

What this file does not do: load, or decide what becomes of it (`models.py`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_LOGGERS = ("diffusers.models.modeling_utils", "transformers.modeling_utils")
_RANDOM = "newly initialized"
"""What both say of parameters that no file held."""


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if _RANDOM in text:
            self._heard.append(" ".join(text.split()))


@contextlib.contextmanager
def missing_weights() -> Iterator[list[str]]:
    """What is said meanwhile, at whatever level these libraries are asked to keep silent."""
    heard: list[str] = []
    listener = _Listener(heard)
    with contextlib.ExitStack() as undo:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            undo.callback(setattr, logger, "propagate", logger.propagate)
            undo.callback(logger.removeHandler, listener)
            logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING))
            logger.propagate = False
            logger.addHandler(listener)
        yield heard
