# SPDX-License-Identifier: Apache-2.0
"""Host and device over the wire: the machine's own numbers, and every misuse a typed error at the caller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from ditto_cosim.device.chips import load_chip
from ditto_cosim.device.execution.machine import Machine
from ditto_cosim.device.serving.outgoing import Outgoing
from ditto_cosim.host.wire import link as link_module
from ditto_cosim.host.wire.client import Device, RemoteRun, connect
from ditto_cosim.host.wire.link import Link
from ditto_cosim.protocol import codec, tensors, version
from ditto_cosim.protocol import messages as m
from ditto_cosim.protocol.errors import (
    BackendError,
    CancelledError,
    DeviceError,
    DeviceLostError,
    IsaError,
    LimitError,
    NonFiniteError,
    ParametersError,
    QuotaError,
    RequestError,
    TensorError,
    VersionError,
    WatchdogError,
)
from ditto_cosim.protocol.hardware import Geometry
from ditto_cosim.protocol.isa import TensorSpec
from ditto_cosim.protocol.messages import RunSpec
from ditto_cosim.protocol.program import Command, Program
from ditto_cosim.protocol.tensors import Array
from support.wire_harness import SlowMachine, run_steps, serving
from support.wire_programs import Builder, chain, inputs_of

T = TypeVar("T")
SPEC = m.RunSpec(backend="model", chip="tiny", design="ditto")


def wait_for(work: Callable[[], T], timeout_s: float = 30.0) -> T:
    """The result of `work` once the device has room for it."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return work()
        except QuotaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/device"


def test_run_gives_what_the_machine_gives(address: str) -> None:
    program, constants = chain()
    machine = Machine(program, constants, SPEC)
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        assert run.spec == SPEC
        assert run.started.geometry == machine.geometry_digest
        for step in range(5):
            reports: list[m.LayerReport] = []
            values: dict[int, np.ndarray] = {}
            expected_values: dict[int, np.ndarray] = {}
            expected = machine.step(
                step,
                inputs_of(program, step),
                observe="all",
                timed=True,
                on_layer=lambda r: None,
                on_value=expected_values.__setitem__,
            )
            result = run.step(
                step,
                inputs_of(program, step),
                observe="all",
                on_layer=reports.append,
                on_value=values.__setitem__,
            )
            assert result.outputs["y"].tobytes() == expected.outputs["y"].tobytes()
            assert result.totals == dict(expected.totals)
            assert result.snapshot == machine.snapshot()
            assert [r.name for r in reports] == [c.name for c in program.layers]
            assert sum(r.cycles for r in reports) <= result.totals["cycles"]
            assert values.keys() == expected_values.keys()
            for value, array in values.items():
                assert array.tobytes() == expected_values[value].tobytes()
            assert result.record is not None
            assert expected.record is not None
            theirs = expected.record.to_frames()
            for name, array in result.record.to_frames().items():
                assert array.tobytes() == theirs[name].tobytes()


def test_observe_streams_only_what_was_asked_for(address: str) -> None:
    program, constants = chain(3)
    wanted = [program.commands[1].results[0], program.commands[6].results[0]]
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        seen: list[int] = []
        run.step(0, inputs_of(program, 0), observe=wanted, on_value=lambda v, a: seen.append(v))
        assert seen == wanted


def test_two_hosts_with_two_runs_each_do_not_mix(address: str) -> None:
    programs = [chain(4, rows=8, width=16 + 16 * (i % 2), seed=i) for i in range(4)]
    with serving(address):
        expected = []
        for program, constants in programs:
            with connect(address) as device, device.open_run(program, constants) as run:
                expected.append(run_steps(run, 4, observe="all"))
        got: dict[int, object] = {}
        with connect(address) as one, connect(address) as two:

            def use(i: int) -> None:
                with (one, one, two, two)[i].open_run(*programs[i]) as run:
                    got[i] = run_steps(run, 4, observe="all")

            threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
    assert [got[i] for i in range(4)] == expected


def test_weights_cross_once(address: str) -> None:
    program, constants = chain(2)
    spec = m.RunSpec()
    with serving(address), connect(address) as one, connect(address) as two:
        first = one.open_run(program, constants, spec)
        for device in (one, two):
            again = device.open_run(program, constants, spec)
            keys = again._keys
            request = m.OpenRun(run=f"x{id(device)}", seq=0, spec=spec, constants=keys)
            opened, _ = device.link.request(request, [codec.encode_program(program)])
            assert isinstance(opened, m.Opened)
            assert opened.missing == []
        assert run_steps(again, 2) == run_steps(first, 2)


def test_constant_in_many_pieces_arrives_whole(address: str) -> None:
    program, constants = chain(2, width=64)
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        expected = run_steps(run, 3)
    with (
        serving(address, chunk_bytes=100, window_requests=3, window_bytes=1000),
        connect(address) as device,
        device.open_run(program, constants) as run,
    ):
        assert run_steps(run, 3) == expected


def test_repeated_request_is_answered_again_and_executed_once(address: str) -> None:
    program, constants = chain(2)
    executed: list[int] = []

    class Counting(Machine):
        def step(self, step: int, inputs: Any, **how: Any) -> Any:
            executed.append(step)
            return super().step(step, inputs, **how)

    with serving(address, factory=Counting), connect(address) as device:
        run, link = device.open_run(program, constants), device.link
        headers, frames = tensors.to_frames(inputs_of(program, 0))
        request = m.Step(run=run._run, seq=50, done_below=50, step=0, inputs=headers, timed=False)
        replies = []
        for _ in range(3):
            pending = link.begin(request, list(frames))
            link._post(pending.frames)
            reply, payload = link.finish(pending)
            replies.append((reply, [bytes(frame) for frame in payload]))
        old = m.Step(run=run._run, seq=49, step=1, inputs=headers)
        link._post(codec.encode(old, frames))
        assert run_steps_of(run, 51, program) == 1
    assert executed == [0, 1]
    assert replies[0] == replies[1] == replies[2]


def run_steps_of(run: RemoteRun, seq: int, program: Program) -> int:
    """One more step, to be sure that everything sent before has been looked at."""
    run._seq = seq - 1
    return run.step(1, inputs_of(program, 1)).step


def test_slow_host_loses_nothing_and_holds_the_device_back(address: str) -> None:
    program, constants = chain(6, rows=64, width=64)
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        expected = run_steps(run, 2, observe="all")
    window = 1 << 15
    with serving(address):
        link = Link(address, stream_bytes=window)
        with Device(link) as device, device.open_run(program, constants) as run:
            waiting: list[int] = []

            def dawdle(report: m.LayerReport) -> None:
                time.sleep(0.02)
                with link._lock:
                    pending = next(iter(link._pending.values()))
                    waiting.append(
                        sum(memoryview(p).nbytes for _, p in pending.stream.values() if p is not None)
                    )

            got = run_steps(run, 2, observe="all", on_layer=dawdle)
    assert got == expected
    assert max(waiting) <= window + 64 * 64 * 4


# --- misuse -------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_and_break_nothing(address: str) -> None:
    program, constants = chain(2)
    good = inputs_of(program, 0)
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        with pytest.raises(TensorError, match=r"inputs are \['z'\], the program expects \['x'\]"):
            run.step(0, {"z": good["x"]})
        with pytest.raises(TensorError, match=r"'x' is f64\[16, 32\], the program expects f32\[16,32\]"):
            run.step(0, {"x": good["x"].astype(np.float64)})
        with pytest.raises(TensorError, match="the program expects"):
            run.step(0, {"x": good["x"][:1]})
        with pytest.raises(RequestError, match="value 9999 is not in the program"):
            run.step(0, good, observe=[9999])
        assert run.step(0, good).totals["steps"] == 1


def test_nan_is_refused_naming_the_command_and_breaks_the_run(address: str) -> None:
    program, constants = chain(2)
    bad = {"x": np.full((16, 32), np.nan, np.float32)}
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        with pytest.raises(NonFiniteError, match="quantize0"):
            run.step(0, bad)
        with pytest.raises(DeviceError, match=r"unusable since an earlier failure.*quantize0"):
            run.step(0, inputs_of(program, 0))
        with device.open_run(program, constants) as other:
            run_steps(other, 1)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        (
            m.RunSpec(backend="os:abort"),
            RequestError,
            "'os:abort' is not offered by this device, which has model, rtl",
        ),
        (m.RunSpec(cross_check="fpga"), RequestError, "'fpga' is not offered"),
        (m.RunSpec(design="nope"), RequestError, "design 'nope': neither a preset .*ditto"),
        (m.RunSpec(chip="nope"), RequestError, "chip 'nope'"),
        (m.RunSpec(rtl_layers=["nothing.*"]), BackendError, "no layer matches 'nothing"),
        (m.RunSpec(memory_bytes=1000), QuotaError, "the quota is 1000"),
    ],
)
def test_spec_that_cannot_be_served_is_refused(address: str, spec: m.RunSpec, error: type, says: str) -> None:
    with serving(address), connect(address) as device, pytest.raises(error, match=says):
        device.open_run(*chain(2), spec)


def test_spec_of_the_wrong_types_is_refused_before_it_is_sent(address: str) -> None:
    """It cannot be read, so the device would take it for damage and ask for it again, and again."""
    wrong = RunSpec(design=7)  # type: ignore[arg-type]  # the mistake
    says = r"Expected `str`, got `int` - at `\$\.design`"
    with serving(address), connect(address) as device, pytest.raises(RequestError, match=says):
        device.open_run(*chain(2), wrong)


def test_other_tile_is_refused_naming_both(address: str) -> None:
    other = Geometry(lanes=3, columns=4).digest
    says = rf"expects tile {other}, backend 'model' has [0-9a-f]{{16}}"
    with serving(address), connect(address) as device, pytest.raises(ParametersError, match=says):
        device.open_run(*chain(2), m.RunSpec(geometry=other))


@pytest.mark.parametrize(
    ("what", "value", "error"),
    [("PROTOCOL_VERSION", "3.0", VersionError), ("parameters_digest", lambda: "beef" * 4, ParametersError)],
)
def test_other_version_or_parameters_are_refused_naming_both(
    address: str, monkeypatch: pytest.MonkeyPatch, what: str, value: object, error: type
) -> None:
    ours = version.parameters_digest()
    with serving(address):
        monkeypatch.setattr(link_module, what, value)
        with pytest.raises(error, match=r"protocol 3\.0|beefbeef") as caught:
            connect(address)
    assert ours in str(caught.value)
    assert "this side has protocol 2.0" in str(caught.value)


def test_malformed_program_is_refused_naming_the_command(address: str) -> None:
    spec = TensorSpec((2, 2), "f32")
    program = Program((spec, spec), {"x": 0}, frozenset(), {}, {"y": 1}, (Command("fly", "up", (0,), (1,)),))
    with (
        serving(address),
        connect(address) as device,
        pytest.raises(IsaError, match=r"command 0 \(fly 'up'\).*unknown"),
    ):
        device.open_run(program, {})


def test_program_that_would_not_fit_is_refused_before_it_runs(address: str) -> None:
    b = Builder()
    x = b.input("x", 1)
    (y,) = b.do("broadcast", "huge", (x,), {"shape": (1 << 20, 1 << 20)})
    with (
        serving(address),
        connect(address) as device,
        pytest.raises(QuotaError, match=r"values 4398046511108, .*'huge'"),
    ):
        device.open_run(b.program(y=y), {})


def test_run_that_outgrows_its_quota_is_stopped(address: str) -> None:
    program, constants = chain(6)
    spec = m.RunSpec(memory_bytes=18_000)
    with (
        serving(address),
        connect(address) as device,
        pytest.raises(QuotaError, match=r"temporal state \d+, .* the quota is 18000"),
    ):
        device.open_run(program, constants, spec)

    class Hoarding(Machine):
        """Holds more than its program says."""

        state_bytes = 1 << 50

    with (
        serving(address, factory=Hoarding),
        connect(address) as device,
        device.open_run(program, constants) as run,
    ):
        with pytest.raises(QuotaError, match=r"temporal state hold \d+ bytes"):
            run.step(0, inputs_of(program, 0))
        with pytest.raises(DeviceError, match="unusable since an earlier failure"):
            run.step(1, inputs_of(program, 1))


def test_constants_that_do_not_match_the_program_are_refused(address: str) -> None:
    program, constants = chain(2)
    with serving(address), connect(address) as device:
        with pytest.raises(TensorError, match="constant 'w1': the program declares it"):
            device.open_run(program, {k: v for k, v in constants.items() if k != "w1"})
        with pytest.raises(TensorError, match=r"constant 'w0' is i8\[3\], the program expects i8\[32,32\]"):
            device.open_run(program, constants | {"w0": np.zeros(3, np.int8)})


def test_input_beyond_the_devices_limit_is_refused_here(address: str) -> None:
    program, constants = chain(2)
    with serving(address, frame_bytes=2000), connect(address) as device:
        run = device.open_run(program, constants)
        with pytest.raises(LimitError, match="frame of 2048 bytes, the device takes 2000"):
            run.step(0, inputs_of(program, 0))


def test_host_that_ignores_its_window_is_refused(address: str) -> None:
    """Requests beyond the window and replies that pile up get an Error; a repetition is not answered at any rate."""
    program, constants = chain(8)
    with serving(address, factory=SlowMachine, window_requests=3), connect(address) as device:
        run, link = device.open_run(program, constants), device.link
        headers, frames = tensors.to_frames(inputs_of(program, 0))
        link.limits = m.Limits()  # a host that has not read them
        steps = [
            link.begin(m.Step(run=run._run, seq=100 + i, step=i, inputs=headers), list(frames))
            for i in range(5)
        ]
        for step in steps[3:]:
            with pytest.raises(
                LimitError, match=r"3 requests of \d+ bytes are unanswered; the window is 3 requests"
            ):
                link.finish(step)
        run.close()
    told: list[codec.Frames] = []
    outgoing = Outgoing("r", 1 << 20, told.append, reply_bytes=2000)
    for seq in range(2):
        assert outgoing.accept(m.Start(run="r", seq=seq))
        outgoing.reply(seq, codec.encode(m.Stored(run="r", seq=seq)))
    with pytest.raises(
        LimitError, match=r"2 replies of .* are kept for run r until a request's done_below passes them"
    ):
        outgoing.accept(m.Start(run="r", seq=2))
    assert outgoing.accept(m.Start(run="r", seq=3, done_below=2))
    outgoing.reply(3, codec.encode(m.Stored(run="r", seq=3)))
    sent = len(told)
    for _ in range(50):
        outgoing.query(3, 0)
    assert len(told) <= sent + 2


def test_stream_window_is_the_devices_own(address: str) -> None:
    """Whatever Hello asks for."""
    program, constants = chain(6, rows=64, width=64)
    with serving(address, stream_bytes=1 << 15):
        link = Link(address, stream_bytes=1 << 40)
        with Device(link) as device, device.open_run(program, constants) as run:
            headers, frames = tensors.to_frames(inputs_of(program, 0))
            step = m.Step(run=run._run, seq=50, step=0, inputs=headers, observe="all", timed=False)
            pending = link.begin(step, list(frames))
            time.sleep(0.5)
            waiting = sum(memoryview(p).nbytes for _, p in pending.stream.values() if p is not None)
            assert waiting <= (1 << 15) + 64 * 64 * 4
            link.finish(pending)


def test_runs_and_hosts_beyond_the_limit_are_refused(address: str) -> None:
    program, constants = chain(1)
    with serving(address, runs=2, sessions=2), connect(address) as device:
        kept = [device.open_run(program, constants) for _ in range(2)]
        with pytest.raises(QuotaError, match="holds 2 runs, its limit"):
            device.open_run(program, constants)
        kept.pop().close()
        wait_for(lambda: device.open_run(program, constants))
        with connect(address), pytest.raises(QuotaError, match="serves 2 hosts already"):
            connect(address)


def test_store_is_bounded_and_evicts_what_nobody_uses(address: str) -> None:
    with serving(address, store_bytes=5000), connect(address) as device:
        for seed in range(4):
            with device.open_run(*chain(4, seed=seed)) as run:
                run_steps(run, 1)
            time.sleep(0.2)
        with pytest.raises(QuotaError, match="its constants need"):
            device.open_run(*chain(6, seed=9))


def test_stuck_backend_reports_its_state(address: str) -> None:
    def stuck(program: Program, constants: Mapping[str, Array], spec: RunSpec) -> Any:
        from support.wire_harness import StuckBackend

        return Machine(program, constants, spec, backend=StuckBackend(load_chip(spec.chip)))

    with serving(address, factory=stuck), connect(address) as device, device.open_run(*chain(2)) as run:
        with pytest.raises(WatchdogError, match="no progress for 10000 cycles") as caught:
            run.step(0, inputs_of(run.program, 0))
        assert "encoder: WAIT_SLOTS" in str(caught.value)


# --- time ---------------------------------------------------------------------------------------------------


def test_busy_device_answers_beats_and_tells_its_progress(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "BEAT_S", 0.2)
    monkeypatch.setattr(SlowMachine, "layer_s", 0.3)
    with serving(address, factory=SlowMachine), connect(address, dead_s=2.0) as device:
        run = device.open_run(*chain(8))
        seen = []
        reports: list[m.LayerReport] = []
        thread = threading.Thread(
            target=lambda: run.step(0, inputs_of(run.program, 0), on_layer=reports.append)
        )
        thread.start()
        while thread.is_alive():
            seen += list(device.progress().values())
            time.sleep(0.1)
        thread.join()
    busy = [p for p in seen if p.busy and p.layer]
    assert busy
    assert busy[-1].name.startswith("block")
    assert len(reports) == 8


def test_silent_host_loses_its_runs_and_gets_them_back(address: str) -> None:
    program, constants = chain(3)
    with serving(address), connect(address) as device, device.open_run(program, constants) as run:
        expected = run_steps(run, 4)
    with serving(address, idle_s=0.5), connect(address) as device, device.open_run(program, constants) as run:
        first = run_steps(run, 2)
        # As if this host's machine had slept: the link's thread is held while the device waits for it.
        device.link._lock.acquire()
        time.sleep(1.2)
        device.link._lock.release()
        for step in (2, 3):
            result = run.step(step, inputs_of(program, step))
            assert result.outputs["y"].tobytes() == expected.outputs[step]["y"]
            assert result.totals == expected.totals[step]
        assert run.recoveries == 1
        assert first.outputs == expected.outputs[:2]


def test_host_that_vanishes_frees_its_runs_after_the_stated_time(address: str) -> None:
    program, constants = chain(2)
    with serving(address, idle_s=0.6, runs=1), connect(address) as other:
        vanishing = Link(address)
        run = Device(vanishing).open_run(program, constants)
        vanishing._loop.post = lambda socket, frames: None  # type: ignore[method-assign]  # as if its cable were cut
        with pytest.raises(QuotaError, match="holds 1 runs"):
            other.open_run(program, constants)
        with wait_for(lambda: other.open_run(program, constants)) as mine:
            run_steps(mine, 1)
        vanishing.close()
        assert run.program is program


@pytest.mark.parametrize("at", [(0, 1), (2, 0), (2, 2), (3, 1)])
def test_step_left_by_an_exception_is_taken_back(address: str, at: tuple[int, int]) -> None:
    program, constants = chain(3)

    def trip(report: m.LayerReport) -> None:
        if (report.step, report.layer) == at:
            raise KeyboardInterrupt

    with serving(address), connect(address) as device:
        with device.open_run(program, constants) as run:
            expected = run_steps(run, 5)
        with device.open_run(program, constants) as run:
            for step in range(5):
                if step == at[0]:
                    with pytest.raises(KeyboardInterrupt):
                        run.step(step, inputs_of(program, step), on_layer=trip)
                result = run.step(step, inputs_of(program, step))
                assert result.outputs["y"].tobytes() == expected.outputs[step]["y"]
                assert result.totals == expected.totals[step]
            assert run.recoveries == 1


def test_closing_a_run_cancels_its_step(address: str) -> None:
    with serving(address, factory=SlowMachine), connect(address) as device:
        run = device.open_run(*chain(8))
        failed: list[BaseException] = []
        done: list[m.LayerReport] = []

        def step() -> None:
            try:
                run.step(0, inputs_of(run.program, 0), on_layer=done.append)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=step)
        thread.start()
        time.sleep(0.5)
        run.close()
        thread.join(30)
        assert len(done) < 8
        assert isinstance(failed[0], CancelledError)


def test_nobody_at_the_address_is_said(address: str) -> None:
    with pytest.raises(
        DeviceLostError, match=r"no device answers at ipc://.* is `ditto device` running there"
    ):
        connect(address, timeout_s=0.5)
