# SPDX-License-Identifier: Apache-2.0
"""A whole device as its users start it, processes and all."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Running:
    """A device process and where it listens."""

    address: str
    process: subprocess.Popen[str]
    log: Path

    def workers(self) -> list[psutil.Process]:
        """In the order of their hosts."""
        (nursery,) = psutil.Process(self.process.pid).children()
        return sorted(nursery.children(), key=lambda p: p.pid)


@contextlib.contextmanager
def running(bind: str, log: Path, *options: str) -> Iterator[Running]:
    """Ends with SIGTERM, which must do, and leaves no process behind."""
    command = [sys.executable, "-m", "ditto_cosim.device", "--bind", bind, "--chip", "tiny"]
    command += ["--backend", "support.plain_backend:PlainBackend", *options]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listens on" in line, (line, log.read_text())
        yield Running(line.split()[-1], process, log)
        tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        if process.poll() is None:
            process.terminate()
            assert process.wait(15) == 0
        _, alive = psutil.wait_procs(tree, 5)
        assert not alive
    finally:
        process.kill()
        process.wait()
