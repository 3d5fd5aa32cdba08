# SPDX-License-Identifier: Apache-2.0
"""The device as an operating-system process: its log, its signals, its memory.

What this file does not do: serve (`serving/`) or compute (`execution/`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from ditto_cosim.protocol.errors import debugging


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def log_to_stderr(level: str) -> None:
    """A log from `level` on; with DITTO_DEBUG everything of ours, every message that crosses included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for ours in ("ditto", "ditto_cosim"):
        logging.getLogger(ours).setLevel(logging.DEBUG if debugging() else logging.NOTSET)


def stop_on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def die_with_parent() -> None:
    """Linux only; elsewhere the parent's end of a socket has to do."""
    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def many_descriptors() -> None:
    """As many as this user may have, within reason: every connection of a host's, or of a stranger's, takes one."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if most == resource.RLIM_INFINITY else min(most, 65_536)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))


def limit_memory(more_bytes: int) -> None:
    """From now on this process may take so much more; beyond, allocations fail here instead of in somebody else. If the
    whole machine runs out, this process goes before others."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, most))


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def exit_now(code: int) -> None:
    """End the process even if a worker is stuck inside foreign code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def keep_memory() -> None:
    """Have malloc keep what large tensors free: every step needs it again, and a fresh page costs more
    than the copy into it. glibc only; elsewhere nothing happens."""
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 1 << 30)
        mallopt(arena_max, 1)
