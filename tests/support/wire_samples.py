# SPDX-License-Identifier: Apache-2.0
"""One of every message, filled in; `PYTHONPATH=tests python -m support.wire_samples` prints their headers as they cross the wire.

The printed bytes are kept in golden_messages.json. They change only with the protocol version.
"""

from __future__ import annotations

import json

from ditto_cosim.protocol import codec
from ditto_cosim.protocol import messages as m

_KEY = m.TensorKey(digest="00112233445566778899aabbccddeeff", dtype="i8", shape=(4, 3))
_IN = m.TensorHeader(name="x", dtype="f32", shape=(1, 3, 8, 8))
_OUT = m.TensorHeader(name="y", dtype="f32", shape=())
_RECORD = m.TensorHeader(name="slots", dtype="u16", shape=(12,))
_SPEC = m.RunSpec(
    backend="model",
    chip="tiny",
    design="ditto_plus",
    rtl_layers=["conv_in", "mid.*"],
    cross_check="rtl",
    geometry="0123456789abcdef",
    memory_bytes=1 << 33,
)
_REPORT = m.LayerReport(
    step=3,
    layer=7,
    name="mid.attn.to_q",
    op="linear",
    mode="temporal",
    forced_base=True,
    zero=100,
    low=20,
    full=3,
    slots=26,
    cycles=12345678901,
    unit_cycles={"compute": 10, "dram": 4},
    stall_cycles={"dram": 2},
    traffic_bytes={"weights": 4096},
    measured=True,
    line_bytes={"operands": 512, "results": 900},
)

SAMPLES: dict[str, m.Message] = {
    type(message).__name__: message
    for message in (
        m.Hello(
            protocol="1.0",
            package="0.1.0",
            parameters="00ff00ff00ff00ff",
            host="box:12",
            stream_bytes=1 << 20,
        ),
        m.OpenRun(run="r1", seq=0, spec=_SPEC, constants={"w": _KEY}),
        m.PutTensors(
            run="r1", seq=1, pieces=[m.Piece(digest=_KEY.digest), m.Piece(digest=_KEY.digest, offset=6)]
        ),
        m.Start(run="r1", seq=2, done_below=2),
        m.Step(run="r1", seq=3, done_below=3, step=0, inputs=[_IN], observe=[4, 5], timed=False),
        m.Restore(run="r1", seq=4, done_below=4),
        m.CloseRun(run="r1", seq=5, done_below=5),
        m.Ack(run="r1", seq=3, received=2),
        m.Query(run="r1", seq=3, received=1),
        m.Ping(token=9),
        m.Bye(),
        m.Welcome(
            protocol="1.0",
            package="0.1.0",
            parameters="00ff00ff00ff00ff",
            device="dev1",
            backends=["model", "rtl"],
            limits=m.Limits(idle_s=12.5),
        ),
        m.Moved(address="ipc:///run/ditto/device.3"),
        m.Opened(run="r1", seq=0, missing=[_KEY.digest]),
        m.Stored(run="r1", seq=1),
        m.Started(
            run="r1",
            seq=2,
            spec=_SPEC,
            geometry="0123456789abcdef",
            measures=False,
            state_bytes=0,
            facts={"low_rule": "twos4", "k_max": 1024},
        ),
        m.Reports(run="r1", seq=3, index=0, reports=[_REPORT]),
        m.Observed(
            run="r1", seq=3, index=1, value=4, tensor=m.TensorHeader(name="4", dtype="i32", shape=(2, 2))
        ),
        m.StepDone(
            run="r1",
            seq=3,
            step=0,
            streamed=2,
            outputs=[_OUT],
            record=[_RECORD],
            totals={"cycles": 7, "steps": 1},
        ),
        m.Restored(run="r1", seq=4),
        m.Closed(run="r1", seq=5),
        m.Missing(run="r1", seq=3),
        m.Pong(
            token=9,
            device="dev1",
            progress=[
                m.Progress(run="r1", seq=3, busy=True, step=1, layer=2, name="conv_in", request_s=0.25)
            ],
        ),
        m.Error(run="r1", seq=3, kind="WatchdogError", message="lane 0 is stuck.", state="encoder: WAIT"),
    )
}


if __name__ == "__main__":
    headers = {
        name: bytes(codec.encode(sample, [b""] * sample.frame_count)[0]).hex()
        for name, sample in SAMPLES.items()
    }
    print(json.dumps(headers, indent=1))
