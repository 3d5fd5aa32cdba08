# SPDX-License-Identifier: Apache-2.0
"""Starts a device of one's own, keeps it alive, and takes it down again. Nobody opens a second terminal.

The device listens on an ipc socket in a private directory and writes its log to a file. It ends with the
host: it is told to on a clean exit, and notices on its own when the host is killed. What this file does not
do: talk to the device (client.py, link.py).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ditto_cosim.host.wire.client import Device
from ditto_cosim.host.wire.link import DEAD_S, Link
from ditto_cosim.protocol import security
from ditto_cosim.protocol.errors import DeviceLostError, LinkError
from ditto_cosim.protocol.loop import REAL, World

LOG = "device.log"
STOP_S = 5.0
LOG_TAIL_BYTES = 2000


def fair_threads() -> int:
    """Half of this machine's cores: host and device compute at once, and a core shared by two costs more than it gives."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


class DeviceProcess:
    """One device process."""

    def __init__(self, options: Sequence[str], directory: Path, number: int, log_path: Path) -> None:
        self.address = f"ipc://{directory / f'device-{number}'}"
        self._log_path = log_path
        command = [sys.executable, "-m", "ditto_cosim.device", "--bind", self.address]
        command += ["--parent-pid", str(os.getpid()), *options]
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own: Ctrl-C is the host's to handle.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={"OMP_NUM_THREADS": str(fair_threads()), **os.environ},
            )

    def ended(self) -> str:
        """Empty while it lives, otherwise how it ended, with the end of its log."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        with self._log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, log.tell() - LOG_TAIL_BYTES))
            tail = log.read().decode(errors="replace").strip()
        return (
            f"{how}; log {self._log_path} ends with:\n{tail}"
            if tail
            else f"{how}; log {self._log_path} is empty"
        )

    @property
    def ended_well(self) -> bool:
        """On its own, or because it was asked to."""
        return self.process.returncode in (0, -15)

    def stop(self) -> None:
        """Ask it to end; insist if it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class _Ahead:
    """A device that was started before anybody needed it, in its private directory."""

    directory: Path
    process: DeviceProcess

    @property
    def log(self) -> Path:
        return self.directory / LOG

    def end(self) -> None:
        self.process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


_AHEAD: dict[tuple[str, ...], _Ahead] = {}


def offers(*backends: str) -> list[str]:
    """Options of a device that has these backends; its own need none."""
    return [text for name in backends if ":" in name or "@" in name for text in ("--offer", name)]


def start_ahead(options: Sequence[str]) -> None:
    """Starts a device that the first `LocalDevice` of these options takes: it comes up while the host still imports."""
    if tuple(options) not in _AHEAD:
        directory = security.private_directory("ditto")
        ahead = _Ahead(directory, DeviceProcess(options, directory, 0, directory / LOG))
        _AHEAD[tuple(options)] = ahead
        atexit.register(ahead.end)


def _taken(options: Sequence[str]) -> _Ahead | None:
    ahead = _AHEAD.pop(tuple(options), None)
    if ahead is not None:
        atexit.unregister(ahead.end)
        if ahead.process.ended():
            ahead.end()
            return None
    return ahead


class LocalDevice(Device):
    """A device process of this host, restarted when it dies.

    `options` go to `ditto device` (`["--backend", "rtl"]`); `run_directory` receives device.log.
    """

    def __init__(
        self,
        options: Sequence[str] = (),
        *,
        run_directory: Path | None = None,
        restarts: int = 5,
        start_s: float = 60.0,
        dead_s: float = DEAD_S,
        launch: Callable[[Sequence[str], Path, int, Path], DeviceProcess] | None = None,
        world: World = REAL,
    ) -> None:
        """`launch` starts a device's process in another way than as one of this machine's."""
        self._options, self._start_s, self._dead_s = list(options), start_s, dead_s
        self._launch, self._world = launch or DeviceProcess, world
        self._ahead = _taken(options) if launch is None else None
        self._directory = self._ahead.directory if self._ahead else security.private_directory("ditto")
        log_directory = run_directory or self._directory
        log_directory.mkdir(parents=True, exist_ok=True)
        self.log_path = log_directory / LOG
        if self.log_path.is_symlink():  # of somebody else's run; the log is not to end up where it leads
            self.log_path.unlink()
        self._keeps_log = run_directory is not None
        self._started = 0
        self._process: DeviceProcess | None = None
        atexit.register(self.close)
        try:
            super().__init__(self._reconnect(), revivals=restarts)
        except BaseException:
            self._take_down()
            raise

    @property
    def pid(self) -> int:
        """Process id of the device that is running now."""
        assert self._process is not None
        return self._process.process.pid

    def _reconnect(self) -> Link:
        if self._process is not None:
            self._process.kill()
        if self._ahead is not None and not self._started:
            process = self._ahead.process
        else:
            process = self._launch(self._options, self._directory, self._started, self.log_path)
        self._process = process
        self._started += 1
        try:
            return Link(
                process.address,
                timeout_s=self._start_s,
                dead_s=self._dead_s,
                watch=process.ended,
                world=self._world,
            )
        except LinkError as error:
            if ended := process.ended():
                raise DeviceLostError(f"the device did not start: {ended}") from error
            raise

    def close(self) -> None:
        super().close()
        self._take_down()

    def _take_down(self) -> None:
        atexit.unregister(self.close)
        if self._process is not None:
            self._process.stop()
        if self._ahead is not None and self._keeps_log:
            with contextlib.suppress(OSError), self.log_path.open("ab") as log:
                log.write(self._ahead.log.read_bytes())
        if self._keeps_log or self._process is None or self._process.ended_well:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._directory)
