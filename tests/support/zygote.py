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

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 600.0) -> int:
        """Exit status, −number if a signal ended it."""
        status = int(self.zygote.ask({"wait": self.pid, "timeout_s": timeout_s}))
        assert status != 999, f"child {self.pid} did not end within {timeout_s:g} s"
        return status


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


def _wait(pid: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 999


def _child(function: Any, arguments: list[Any], log: str) -> None:
    status = 1
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts what is in the background deaf to it
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(0)
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
            print(_wait(question["wait"], question["timeout_s"]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _child(getattr(jobs, question["start"]), question["arguments"], log)
        print(pid, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
