# SPDX-License-Identifier: Apache-2.0
"""Many small jobs on all cores of this machine, or of many machines through Ray.

    for index, result in each(function, state, items, on="local", jobs=0): …      as they are done, in any order

Contract
    `function(state, item)` is a function of a module; `state` reaches every worker once. Results do not depend on who computes
    them. Processes × threads never exceed the cores: a local process gets `cores // processes` threads, a Ray actor one.
    on = "local"           processes of this machine; one: this process
    on = "ray"             the cluster that RAY_ADDRESS names; without one Ray starts here
    on = "ray://host:port" that cluster; where nobody answers there, a sentence within seconds
    A Ray actor that is lost is started again, its job repeated, `LOST` times.

What this file does not do: know what a job is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, TypeVar

from ditto_cosim.device.process import keep_memory
from ditto_cosim.protocol.errors import DittoError

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")
Job = Callable[[State, Item], Result]

ANSWER_S = 3.0
LOST = 2
SELDOM = 50_000, 20, 100
"""When a worker looks for garbage in cycles: a record is a hundred thousand objects that all stay."""
AHEAD = 2
"""Jobs that a worker is given before it has done the one in hand."""


class WorkersError(DittoError):
    """Workers that cannot be had; the message says what to do."""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def budget(jobs: int, count: int) -> tuple[int, int]:
    """(processes, threads of each): together no more than there are cores, however many are asked for."""
    processes = max(1, min(jobs or cores(), cores(), count))
    return processes, max(1, cores() // processes)


def check(on: str) -> None:
    """A sentence if there is nobody; quick, so that it is said before anything is computed."""
    if on == "local":
        return
    if on != "ray" and not on.startswith("ray://"):
        raise WorkersError(f"--on {on!r}: expected local, ray, or ray://host:port")
    _ray()
    address = on if on != "ray" else os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise WorkersError(f"--on {address!r}: expected ray://host:port, such as ray://10.0.0.7:10001")
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except OSError as error:
        raise WorkersError(
            f"--on {address}: nobody answers there ({error.strerror or error}). Start a cluster with `ray start --head "
            "--ray-client-server-port 10001` and give its address, or leave --on out: this machine does it alone"
        ) from None


def each(
    function: Job[State, Item, Result], state: State, items: Sequence[Item], on: str = "local", jobs: int = 0
) -> Iterator[tuple[int, Result]]:
    """See the file's header."""
    if not items:
        return iter(())
    check(on)
    return _on_ray(function, state, items, on, jobs) if on != "local" else _here(function, state, items, jobs)


# --- this machine -------------------------------------------------------------------------------------------

_mine: tuple[Any, Any] = (None, None)


def _begin(function: Any, state: Any, threads: int) -> None:
    global _mine
    _mine = function, state
    _settle(threads)


def _settle(threads: int) -> None:
    """A process whose state stays as it is until the last job."""
    limit_threads(threads)
    keep_memory()
    gc.freeze()
    gc.set_threshold(*SELDOM)


def limit_threads(threads: int) -> None:
    """Of what this process starts from now on: compiled kernels, NumPy's and PyTorch's."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from ditto_cosim.device.kernels import native

    native.use_threads(threads)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """While a hundred thousand objects come into being, each of which stays: looking through them takes longer."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _do(item: Any) -> Any:
    function, state = _mine
    return function(state, item)


def _here(
    function: Job[State, Item, Result], state: State, items: Sequence[Item], jobs: int
) -> Iterator[tuple[int, Result]]:
    processes, threads = budget(jobs, len(items))
    if processes == 1:
        for index, item in enumerate(items):
            yield index, function(state, item)
        return
    # forked, so that the state is there without being sent
    with ProcessPoolExecutor(processes, get_context("fork"), _begin, (function, state, threads)) as pool:
        yield from _as_done(items, lambda item: pool.submit(_do, item), processes)


def _as_done(
    items: Sequence[Item], submit: Callable[[Item], Future[Any]], workers: int
) -> Iterator[tuple[int, Any]]:
    """A worker has its next job at hand, and no more, so that a failure ends early."""
    waiting = dict(enumerate(items))
    running: dict[Future[Any], int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < AHEAD * workers:
                index = next(iter(waiting))
                running[submit(waiting.pop(index))] = index
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
    finally:
        for future in running:
            future.cancel()


# --- Ray ----------------------------------------------------------------------------------------------------


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise WorkersError("--on ray: Ray is not installed; `pip install 'ditto-cosim[ray]'`") from None
    return ray


class _Worker:
    """One core somewhere."""

    def __init__(self, function: Any, state: bytes) -> None:
        with _no_garbage():
            self._function, self._state = function, pickle.loads(state)
        _settle(1)

    def do(self, item: Any) -> Any:
        return self._function(self._state, item)


@contextlib.contextmanager
def cluster(on: str) -> Iterator[Any]:
    """Ray, connected; what was begun here ends here. Whoever asks for `each` inside finds it begun."""
    ray = _ray()
    begun = not ray.is_initialized()
    if begun:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            where = {"address": on} if on != "ray" else {}
            ray.init(
                **where, log_to_driver=False, include_dashboard=False, logging_level="error", **_runtime(on)
            )
        except Exception as error:  # Ray's own have no common root, and say it in many lines
            raise WorkersError(
                f"--on {on}: Ray does not start ({str(error).strip().splitlines()[0]})"
            ) from None
    try:
        yield ray
    finally:
        if begun:
            with contextlib.suppress(Exception):
                ray.shutdown()


def _on_ray(
    function: Job[State, Item, Result], state: State, items: Sequence[Item], on: str, jobs: int
) -> Iterator[tuple[int, Result]]:
    with cluster(on) as ray:
        workers = max(1, min(jobs or int(ray.cluster_resources().get("CPU", 1)), len(items)))
        make = ray.remote(num_cpus=1, max_restarts=LOST, max_task_retries=LOST)(_Worker)
        with _no_garbage():
            held = ray.put(ray.cloudpickle.dumps(state))
        actors = [make.remote(function, held) for _ in range(workers)]
        waiting = dict(enumerate(items))
        running: dict[Any, tuple[int, Any]] = {}
        free = [actor for _ in range(AHEAD) for actor in actors]
        while waiting or running:
            while waiting and free:
                index = next(iter(waiting))
                actor = free.pop(0)
                running[actor.do.remote(waiting.pop(index))] = index, actor
            done, _ = ray.wait(list(running))
            for reference in done:
                index, actor = running.pop(reference)
                free.append(actor)
                try:
                    yield index, ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, DittoError) else error from None
                except ray.exceptions.RayError as error:
                    raise WorkersError(
                        f"--on {on}: a worker was lost {LOST + 1} times ({str(error).strip().splitlines()[0]})"
                    ) from None


def _runtime(on: str) -> dict[str, Any]:
    """Without an address Ray would join whatever cluster this machine has had last."""
    return (
        {"address": "local", "num_cpus": cores()} if on == "ray" and not os.environ.get("RAY_ADDRESS") else {}
    )
