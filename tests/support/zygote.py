# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and forks children, so that killing hundreds of runs costs no hundred imports.

    with Zygote("support.killed_jobs") as zygote:
        child = zygote.start("generate", address, str(directory))
        child.kill(); child.wait()

A child runs one function of the module; what it prints goes to its log. What this file does not do: decide when to kill.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass
class Child:
    """One forked run. Its number stays its own until it is waited for."""

    pid: int
    zygote: Zygote
    cpu_s: float = 0.0
    """What it took of the processor, once it has been waited for."""

    def spent_s(self) -> float:
        """What it has taken of the processor so far; infinite if it has ended."""
        ended, spent_s = _spent(self.pid)
        return math.inf if ended else spent_s

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 600.0) -> int:
        """Exit status, −number if a signal ended it."""
        status, self.cpu_s = json.loads(self.zygote.ask({"wait": self.pid, "timeout_s": timeout_s}))
        assert status != 999, f"child {self.pid} did not end within {timeout_s:g} s"
        return int(status)


class Zygote:
    def __init__(self, module: str, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.zygote", module, str(log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
            )

    def start(self, function: str, *arguments: Any) -> Child:
        return Child(int(self.ask({"start": function, "arguments": arguments})), self)

    def ask(self, question: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the zygote ended: {self.log.read_text()[-2000:]}"
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _spent(pid: int) -> tuple[bool, float]:
    """Whether a process has ended, and what it took of the processor itself, its children left out."""
    state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(numbers[10]), int(numbers[11])
    return state == "Z", (user + system) / os.sysconf("SC_CLK_TCK")


def _wait(pid: int, timeout_s: float) -> tuple[int, float]:
    """Status and seconds of the processor."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            _, spent_s = _spent(pid)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), spent_s
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 999, 0.0


def _child(function: Any, arguments: list[Any], log: str) -> None:
    status = 1
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts what is in the background deaf to it
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        status = int(function(*arguments) or 0)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(module: str, log: str) -> None:
    jobs = importlib.import_module(module)
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            print(json.dumps(_wait(question["wait"], question["timeout_s"])), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(getattr(jobs, question["start"]), question["arguments"], log)
        print(pid, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
