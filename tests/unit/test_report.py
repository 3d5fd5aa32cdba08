# SPDX-License-Identifier: Apache-2.0
"""Views of a run: they add up, say what happened, and need nothing but themselves."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace as PerfettoTrace
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent
from PIL import Image
from rich.console import Console

from ditto_cosim.device.pricing.cost import UNITS
from ditto_cosim.device.timing.lanes import CAUSES
from ditto_cosim.host.report import (
    CheckSummary,
    ReportError,
    RunReport,
    columns,
    line,
    load_report,
    summary,
    why,
    write_report,
)
from ditto_cosim.host.report.certificate import certificate
from ditto_cosim.host.report.prices import (
    DesignPrice,
    Elsewhere,
    LayerPrice,
    Prices,
    StepSeries,
    WhatIf,
    load_prices,
    save_prices,
)
from ditto_cosim.host.report.terminal import tables
from ditto_cosim.protocol.hardware import MODES, Mode
from ditto_cosim.protocol.messages import LayerReport
from support.browser import browser

STEPS, NAMES = 6, ("conv_in", "mid.attention.to_q", "mid.attention.qk", "conv_out")
STALLS = {
    "conv_in": "dram",
    "mid.attention.to_q": "weight_load",
    "mid.attention.qk": "vector",
    "conv_out": "fill",
}


def layer_report(step: int, layer: int, mode: Mode) -> LayerReport:
    name = NAMES[layer]
    elements = 1000 * (layer + 1)
    zero, low = (elements // 2, elements // 4) if mode == "temporal" else (0, 0)
    full = elements - zero - low
    compute = 100 + 10 * layer + (50 if mode == "original" else 0)
    waits = 300 * (layer == 0) + 40
    return LayerReport(
        step=step,
        layer=layer,
        name=name,
        op="matmul" if name.endswith("qk") else "conv2d",
        mode=mode,
        forced_base=step == 4 and layer == 2,
        zero=zero,
        low=low,
        full=full,
        slots=low + 2 * full,
        cycles=compute + waits,
        unit_cycles={"encode": 20, "compute": compute, "dram": 90},
        stall_cycles={STALLS[name]: waits},
        traffic_bytes={"weights": 500, "previous_output": 4000, "input": 100},
        measured=layer == 0,
    )


def modes(step: int, layer: int) -> Mode:
    if step == 0 or (step > 1 and layer == 3) or (step == 4 and layer == 2):
        return "original"
    return "temporal"


@pytest.fixture
def reports() -> list[LayerReport]:
    return [layer_report(s, i, modes(s, i)) for s in range(STEPS) for i in range(len(NAMES))]


@pytest.fixture
def report(reports: list[LayerReport]) -> RunReport:
    return RunReport.of(
        reports,
        model="fashion-dit",
        design="ditto",
        chip="paper_twin",
        backend="rtl",
        low_rule="twos4",
        clock_hz=100_000_000,
        seed=7,
        command_line="ditto generate fashion-dit --seed 7 <&>",
        wall_s=12.5,
        verdict=CheckSummary(True, 24, 240),
    )


def test_report_keeps_what_the_device_sent(report: RunReport, reports: list[LayerReport]) -> None:
    assert report.cycles.shape == (STEPS, len(NAMES))
    for r in reports:
        assert report.cycles[r.step, r.layer] == r.cycles
        assert MODES[report.mode[r.step, r.layer]] == r.mode
        assert report.stall_cycles["dram"][r.step, r.layer] == r.stall_cycles.get("dram", 0)
        assert report.measured[r.step, r.layer] == r.measured
    assert report.total_cycles == sum(r.cycles for r in reports)


def test_report_counts_a_layer_reported_twice_once(report: RunReport, reports: list[LayerReport]) -> None:
    again = RunReport.of(
        [*reports, *reports[-4:]],
        **{
            n: getattr(report, n)
            for n in ("model", "design", "chip", "backend", "low_rule", "clock_hz", "seed")
        },
        command_line="",
        wall_s=0.0,
    )
    assert again.total_cycles == report.total_cycles


def test_report_refuses_half_a_step(reports: list[LayerReport]) -> None:
    with pytest.raises(ReportError, match="step 5 has no report of layer 3"):
        RunReport.of(reports[:-1])
    with pytest.raises(ReportError, match="no layers"):
        RunReport.of([])


def test_every_cycle_is_explained_once(report: RunReport) -> None:
    assert sum(summary.cycles_by_cause(report).values()) == int(report.cycles.sum())
    short = replace(report, stall_cycles={})
    assert summary.cycles_by_cause(short)["other"] > 0
    assert sum(summary.cycles_by_cause(short).values()) == int(report.cycles.sum())


def test_shares_leave_out_what_was_bypassed(report: RunReport) -> None:
    assert summary.shares(report) == {"zero": 0.5, "low": 0.25, "full": 0.25}
    assert summary.shares(report, "original") == {"zero": 0.0, "low": 0.0, "full": 1.0}
    assert summary.shares(report, "spatial") == {"zero": 0.0, "low": 0.0, "full": 0.0}
    assert np.isnan(summary.shares_by_step(report)["zero"][0])


def test_forced_shares_are_those_of_each_layer(report: RunReport) -> None:
    assert summary.forced_shares(report) == [(report.names[2], 1 / STEPS)]
    often = np.zeros((STEPS, 4), np.int64)
    often[2:, 1] = often[5:, 3] = 1
    shares = summary.forced_shares(replace(report, forced=often))
    assert shares == [(report.names[1], (STEPS - 2) / STEPS), (report.names[3], (STEPS - 5) / STEPS)]
    assert summary.forced_shares(replace(report, forced=0 * often)) == []


def test_decisions_ignore_forced_steps(report: RunReport) -> None:
    """Layer 2 is forced to original in step 4 only; layer 3 went back for good."""
    found = {d.mode: d for d in summary.decisions(report)}
    assert found["temporal"].layers == 3
    assert found["original"].layers == 1
    last_forced = replace(
        report, forced=np.where(np.arange(STEPS)[:, None] == 5, 1, 0) * np.ones((1, 4), np.int64)
    )
    assert {d.mode: d.layers for d in summary.decisions(last_forced)} == {"original": 2, "temporal": 2}
    assert found["original"].first_cycles == report.cycles[0, 3]
    assert found["original"].second_cycles == report.cycles[1, 3]


def test_slowest_layers_say_why(report: RunReport) -> None:
    rows = summary.slowest(report)
    assert rows[0].name == "conv_in"
    assert [r.cycles for r in rows] == sorted((r.cycles for r in rows), reverse=True)
    assert "previous output is 87% of its bytes" in rows[0].why
    assert all("slots per element" in r.why for r in rows[1:])
    assert rows[0].modes == "original ×1, temporal ×5"
    assert sum(r.share for r in rows) == pytest.approx(1)


def test_measured_and_modelled_are_told_apart(report: RunReport) -> None:
    assert summary.measured_words(report) == "lane cycles measured in RTL for 25% of layers"
    assert (
        summary.measured_words(replace(report, measured=report.measured * 0))
        == "modelled by the cycle contract"
    )


@pytest.mark.parametrize(
    ("clock_hz", "words"), [(10**9, "1 GHz"), (10**8, "0.1 GHz"), (12_500_000, "0.0125 GHz")]
)
def test_report_takes_the_chips_own_clock(
    report: RunReport, clock_hz: int, words: str, tmp_path: Path
) -> None:
    """Seconds, timeline and page follow the clock that the run had."""
    shown = replace(report, clock_hz=clock_hz, total_cycles=125_000_000)
    milliseconds = 125e6 / clock_hz * 1e3
    line = dict(summary.headline(shown))["cycles"]
    assert f"{milliseconds:,.2f} ms at {words}" in line
    write_report(shown, tmp_path)
    steps_ns = sum(end - start for _, start, end, _ in slices(tmp_path / "timeline.pftrace")["steps"])
    assert steps_ns == pytest.approx(report.cycles.sum() / clock_hz * 1e9, rel=1e-6)
    page = (tmp_path / "report.html").read_text()
    assert f"{milliseconds:,.2f} ms at {words}" in page
    assert f"One cycle takes {1e9 / clock_hz:g} ns." in page


def test_report_survives_json(report: RunReport) -> None:
    full = replace(report, strip=((0, "a.png"),), images=("b.png",))
    back = RunReport.from_json(full.to_json())
    assert back.to_json() == full.to_json()
    assert back.verdict == full.verdict
    assert back.strip == full.strip
    assert np.array_equal(back.cycles, full.cycles)
    with pytest.raises(ReportError, match="version 9"):
        RunReport.from_json(json.dumps(json.loads(full.to_json()) | {"version": 9}))
    with pytest.raises(ReportError, match="surprise"):
        RunReport.from_json(json.dumps(json.loads(full.to_json()) | {"surprise": 1}))


def prices(report: RunReport) -> Prices:
    def design(name: str, cycles: int, dram: float) -> DesignPrice:
        return DesignPrice(
            name=name, title=name.upper(), cycles=cycles, energy_pj={"compute": 5e9, "dram": dram}, dram_bytes=int(dram),
            computing=0.25, waits={"dram": 0.5, "fill": 0.25}, temporal=0.5,
        )  # fmt: skip

    layers = [LayerPrice(macs=10**6, products=10**5, dram_bytes=4000, cycles=900) for _ in report.names]
    grid = [
        WhatIf(design=d, tiles=t, bytes_per_cycle=b, buffer_mb=m, cycles=t * 10 + c, energy_pj=1e9)
        for d, c in (("itc", 500), ("ditto", 300)) for t in (1, 2, 4) for b in (16.0, 32.0) for m in (0.0, 8.0)
    ]  # fmt: skip
    return Prices(
        design="ditto", chip="paper_twin", clock_hz=report.clock_hz, multipliers=64, peak_bytes_per_cycle=32.0,
        area_mm2=64.48, area_source="a table", equals_run=True, layers=layers, what_if=grid,
        designs=[design("ditto", 4000, 2e9), design("itc", 6000, 1e9), design("slow", 400_000, 1e13)],
        elsewhere=[Elsewhere(chip="tiny", speedup=2.0, energy=0.9)],
        series=StepSeries(
            step=2, at_cycles=[0, 100], dram_bytes_per_cycle=[3.0, 5.5], rooms_bytes={"early": 10**6},
            held_bytes={"early": [5, 7], "late": [0, 1], "results": [2, 0]},
        ),
    )  # fmt: skip


def test_written_report_stands_alone(report: RunReport, tmp_path: Path) -> None:
    Image.new("L", (28, 28), 200).save(tmp_path / "picture.png")
    shown = replace(report, images=("picture.png",), strip=((2, "picture.png"),))
    write_report(shown, tmp_path)
    assert load_report(tmp_path).to_json() == shown.to_json()
    page = (tmp_path / "report.html").read_text()
    body = page[: page.index('<script type="application/json" id="run-data">')]
    sources = re.findall(r'(?:src|href)="([^"#]*)"', body)
    assert len(sources) == 4
    assert all(s.startswith(("data:image/png;base64,", "data:,")) for s in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", body)
    assert "ditto generate fashion-dit --seed 7 &lt;&amp;&gt;" in page
    assert (
        "Bit-identical to the int8 reference: 24 layers, 240 values and 0 delivered outputs compared" in page
    )
    assert "lane cycles measured in RTL for 25% of layers" in page
    assert all(name in page for name in NAMES)


def test_report_shows_what_pricing_found(report: RunReport, tmp_path: Path) -> None:
    save_prices(prices(report), tmp_path)
    assert load_prices(tmp_path) == prices(report)
    write_report(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "DITTO 1.50× ITC because" in page
    assert "Energy 1.17× ITC (more): 7.0 mJ" in page
    assert "the same run on the chip tiny is 2.00× ITC" in page
    assert "Not drawn, because the rest would be flat beside it: SLOW" in page
    assert 'id="knob-tiles"' in page
    (tmp_path / "prices.json").write_text('{"version": 0}')
    assert load_prices(tmp_path) is None


def test_line_to_a_board_is_counted_and_timed(reports: list[LayerReport], tmp_path: Path) -> None:
    crossed = {"weights": 1000, "operands": 6000, "results": 5000}
    over_a_line = [
        msgspec.structs.replace(r, line_bytes=crossed if r.layer == 1 else {"operands": 7}) for r in reports
    ]
    about = {"model": "m", "design": "ditto", "chip": "tiny", "backend": "board", "low_rule": "twos4"}
    run = RunReport.of(over_a_line, **about, clock_hz=1, seed=0, command_line="", wall_s=0.0)
    total = STEPS * (sum(crossed.values()) + 7 * (len(NAMES) - 1))
    assert sum(line.carried(run).values()) == total
    assert line.seconds_on(total)["UART, 12 Mbaud"] == total / 1_200_000
    assert [x.nbytes for x in line.layers(run, None)] == [STEPS * 12_000] + [STEPS * 7] * (len(NAMES) - 1)
    assert columns.frame(run)["line_results_bytes"].sum() == STEPS * 5000
    assert RunReport.from_json(run.to_json()).line_bytes.keys() == crossed.keys()
    write_report(run, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The line to the board" in page
    assert "FT245, synchronous" in page


def test_why_is_an_account_of_the_difference(report: RunReport) -> None:
    """Savings and losses add up to the difference of the totals, and the words follow their sign."""
    found = prices(report)
    base, own = found.of("itc"), found.own
    assert base is not None
    saved = {c: n - why.cycles_by_cause(own)[c] for c, n in why.cycles_by_cause(base).items()}
    assert sum(saved.values()) == base.cycles - own.cycles
    first, energy, change = why.sentences(report, found)
    assert "it saves 1,000 cycles of DRAM (33% of what ITC spends there)" in first
    assert "+100% DRAM bytes" in energy
    assert change.startswith("What would change it: the PEs work in 25% of the cycles")
    slower = msgspec.structs.replace(found, design="slow")
    assert "SLOW 0.01× ITC because 0.39 M cycles more go to DRAM and" in why.sentences(report, slower)[0]
    assert why.sentences(report, None) == []


def test_certificate_is_the_same_however_the_run_came_about(report: RunReport, tmp_path: Path) -> None:
    digests = {"rtl": "aa", "contract": "bb", "program": "cc", "weights": "dd", "chip": "ee"}
    verdict = CheckSummary(True, 24, 240, 6, None, snr_db=31.5, digests=digests, not_checked=("DRAM",))
    done = replace(report, verdict=verdict, versions={"torch": "2"}, picture_digests=("ff",))
    other = replace(
        done, wall_s=99.0, recoveries=3, command_line="elsewhere", verdict=replace(verdict, snr_db=30.0)
    )
    write_report(done, tmp_path / "a")
    write_report(other, tmp_path / "b")
    first, second = ((tmp_path / d / "certificate.json").read_bytes() for d in "ab")
    assert first == second
    found = json.loads(first)
    assert (found["schema"], found["version"], found["holds"]) == ("ditto.certificate", 1, True)
    assert found["digests"] == digests
    assert found["pictures_sha256"] == ["ff"]
    assert found["cycles"]["total"] == report.total_cycles
    failed = replace(done, verdict=replace(verdict, bit_identical=False, first_difference="step 1"))
    for bad in (failed, replace(done, verdict=None)):
        assert not certificate(bad)["holds"]
    changed = replace(done, cycles=done.cycles, total_cycles=done.total_cycles + 1)
    assert certificate(changed) != found


def test_report_shows_no_file_from_elsewhere(report: RunReport, tmp_path: Path) -> None:
    """A run that somebody else made, shown here and passed on, is not to carry a file of this machine's."""
    run, secret = tmp_path / "run", tmp_path / "secret"
    run.mkdir()
    secret.write_text("the key")
    (run / "link.png").symlink_to(secret)
    for path in ("../secret", str(secret), "link.png"):
        for hostile in (replace(report, images=(path,)), replace(report, strip=((0, path),))):
            with pytest.raises(ReportError, match="is not in"):
                write_report(hostile, run)
            (run / "report.json").write_text(hostile.to_json())
            with pytest.raises(ReportError, match="is not in"):
                load_report(run)


def test_report_names_a_missing_picture(report: RunReport, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"picture 'gone\.png' is not in"):
        write_report(replace(report, images=("gone.png",)), tmp_path)
    with pytest.raises(ReportError, match=r"no report\.json here"):
        load_report(tmp_path / "elsewhere")


def slices(path: Path) -> dict[str, list[tuple[str, int, int, dict[str, Any]]]]:
    """(name, begin, end in ns, arguments) of every slice, by track, as any reader of the format finds them."""
    read = PerfettoTrace()
    read.ParseFromString(path.read_bytes())
    tracks = {
        p.track_descriptor.uuid: p.track_descriptor.name
        for p in read.packet
        if p.HasField("track_descriptor")
    }
    found: dict[str, list[tuple[str, int, int, dict[str, Any]]]] = {}
    begun: dict[int, Any] = {}
    for packet in read.packet:
        event = packet.track_event
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            assert event.track_uuid not in begun, "slices of a track overlap"
            begun[event.track_uuid] = packet
        elif event.type == TrackEvent.TYPE_SLICE_END:
            first = begun.pop(event.track_uuid)
            facts = {a.name: a.string_value or a.int_value for a in first.track_event.debug_annotations}
            row = (first.track_event.name, first.timestamp, packet.timestamp, facts)
            found.setdefault(tracks[event.track_uuid], []).append(row)
    assert not begun
    return found


def test_timeline_read_back_adds_up_to_the_report(report: RunReport, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    found = slices(tmp_path / "timeline.pftrace")
    layers = found["layers"]
    assert [facts["layer"] for *_, facts in layers] == list(NAMES) * STEPS
    assert [name.split()[0] for name, *_ in layers] == [MODES[m] for m in report.mode.reshape(-1)]
    assert sum(facts["cycles"] for *_, facts in layers) == report.total_cycles
    assert sum(facts["weights_bytes"] for *_, facts in layers) == report.traffic_bytes["weights"].sum()
    for before, after in pairwise(layers):
        assert after[1] == before[2]
    spent: dict[str, int] = {}
    for name, *_, facts in found["PEs: at work, or waiting for"]:
        spent[name] = spent.get(name, 0) + facts["cycles"]
    by_cause = {summary.CAUSES[c]: n for c, n in summary.cycles_by_cause(report).items()}
    assert spent == by_cause
    assert {facts["lane_cycles"] for *_, facts in layers} == {"measured", "modelled"}


def test_timeline_has_host_and_wire_in_wall_clock(report: RunReport, tmp_path: Path) -> None:
    """A step asks at 1000·s and is answered 900 µs later; its layers arrive every 200 µs, compared for 30 before they do."""
    layers = np.arange(len(NAMES))
    steps = np.arange(STEPS)
    arrived = 1000 * steps[:, None] + 200 * (layers + 1)
    times = {
        "asked": 1000 * steps,
        "answered": 1000 * steps + 900,
        "arrived": arrived,
        "check_begin": arrived - 50,
        "check": np.full_like(arrived, 30),
    }
    write_report(replace(report, host_us=times), tmp_path)
    again = load_report(tmp_path)
    assert all(np.array_equal(again.host_us[n], times[n]) for n in times)
    found = slices(tmp_path / "timeline.pftrace")
    wire, host = found["wire and device: waiting for"], found["host"]
    waited = [row for row in wire if row[0] in NAMES]
    assert [row[1:3] for row in waited[:2]] == [(0, 200_000), (200_000, 400_000)]
    assert sum(facts["us"] for *_, facts in wire) == STEPS * 900
    compared = [facts["us"] for name, *_, facts in host if name.startswith("compare ")]
    assert sum(compared) == times["check"].sum() == STEPS * len(NAMES) * 30
    assert sum(facts["us"] for name, *_, facts in host if name == "pipeline") == (STEPS - 1) * 100
    assert sum(facts["cycles"] for *_, facts in found["layers"]) == report.total_cycles
    joined = flows(tmp_path / "timeline.pftrace")
    assert len(joined) == STEPS * len(NAMES)
    assert set(joined.values()) == {2}, "each layer once on the chip and once on the wire"


def flows(path: Path) -> dict[int, int]:
    read = PerfettoTrace()
    read.ParseFromString(path.read_bytes())
    return Counter(flow for p in read.packet for flow in p.track_event.flow_ids)


@pytest.mark.parametrize("identical", [True, False, None])
def test_terminal_tables_carry_the_verdict(report: RunReport, identical: bool | None) -> None:
    verdict = (
        None
        if identical is None
        else CheckSummary(identical, 3, 30, first_difference=None if identical else "step 1, conv_in")
    )
    out = io.StringIO()
    Console(file=out, width=160).print(tables(replace(report, verdict=verdict)))
    text = out.getvalue()
    expected = {
        True: "bit-identical",
        False: "DIFFERS from the int8 reference at step 1, conv_in",
        None: "not verified",
    }
    assert expected[identical] in text
    assert "PEs wait for DRAM" in text
    assert "forced to base" in text
    assert f"{report.names[2]}" in text.split("forced to base")[1]


def test_layers_are_a_table_that_others_read(report: RunReport, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    path = tmp_path / columns.PARQUET
    layers = polars.read_parquet(path)
    assert layers.columns == [c.name for c in columns.COLUMNS]
    assert polars.read_parquet_metadata(path) | {"schema": "ditto.layers", "version": "1"} == (
        polars.read_parquet_metadata(path)
    )
    assert layers.height == STEPS * len(NAMES)
    assert layers["cycles"].sum() == report.total_cycles
    one = layers.filter((polars.col("step") == 4) & (polars.col("name") == "mid.attention.qk")).row(
        0, named=True
    )
    assert (one["forced"], one["mode"], one["measured"]) == (True, "original", False)
    assert one["stall_vector_cycles"] == 40
    assert one["dram_previous_output_bytes"] == 4000
    columns.write_csv(report, tmp_path)
    assert polars.read_csv(tmp_path / columns.CSV).equals(
        layers.cast({"step": polars.Int64, "layer": polars.Int64})
    )


def test_layers_schema_is_the_documented_one() -> None:
    page = (Path(__file__).parents[2] / "docs/record.md").read_text()
    assert columns.documentation() in page
    assert f"`schema = {columns.SCHEMA}` and `version = {columns.VERSION}`" in page
    assert {c.name for c in columns.COLUMNS} >= {f"stall_{cause}_cycles" for cause in CAUSES[1:]}
    assert {c.name for c in columns.COLUMNS} >= {f"unit_{unit}_cycles" for unit in UNITS}


def see(page: Path, width: int, scheme: str, tab: Any) -> Any:
    """The page, drawn; fails on anything in the console, on any request, on anything wider than the window."""
    wrong: list[str] = []
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda e: wrong.append(str(e)))
    tab.on(
        "request",
        lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None,
    )
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
    assert wrong == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, scheme
    return tab


def test_report_works_in_a_browser(report: RunReport, tmp_path: Path) -> None:
    """At two widths, light and dark, printed, and as a person uses it."""
    Image.new("RGB", (64, 64), (200, 30, 60)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), (20, 30, 200)).save(tmp_path / "b.png")
    save_prices(prices(report), tmp_path)
    write_report(replace(report, images=("a.png",), strip=((0, "b.png"), (5, "a.png"))), tmp_path)
    page = tmp_path / "report.html"
    with browser() as chromium:
        for width, scheme in ((1300, "light"), (400, "dark"), (400, "light"), (1300, "dark")):
            tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            see(page, width, scheme, tab)
            drawn = tab.evaluate(
                "[...document.querySelectorAll('[data-chart]')].map(e => e.querySelector('svg') !== null)"
            )
            assert len(drawn) >= 9
            assert all(drawn)
            dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
        tab.click("#layers th:has-text('cycles') button")
        falling = tab.evaluate(
            "[...document.querySelectorAll('#layers tbody tr')].map(r => r.cells[0].textContent)"
        )
        order = np.argsort(-report.cycles.sum(0), kind="stable")
        assert falling == [NAMES[i] for i in order]
        tab.fill("#layer-search", "attention matmul")
        assert tab.inner_text("#layer-count") == "1 of 4 layers"
        tab.click("#layers tbody tr:visible")
        assert tab.inner_text("#layer-name") == "mid.attention.qk"
        assert tab.url.endswith("#layer-2")
        tab.keyboard.press("Escape")
        tab.locator("#scrub").fill("0")
        assert tab.inner_text("#scrub-step") == "0"
        tab.locator("#knob-tiles").fill("2")
        assert "540" in tab.inner_text("#what-if-result"), "itc on four tiles"
        tab.select_option("#map-field", "map_cycles")
        cell = tab.locator("#map path.background, #map .mark-rect path").first
        assert cell.count() == 1
        tab.locator("#map g.mark-rect path").nth(1).click()
        tab.wait_for_selector("dialog[open]")
        assert tab.inner_text("#layer-name") == NAMES[1], "cells are step by step, layer by layer"
        tab.keyboard.press("Escape")
        tab.emulate_media(media="print")
        assert len(tab.pdf()) > 20_000
        tab.emulate_media(media="screen")
        tab.goto(page.as_uri() + "#layer-1")
        tab.reload()
        tab.wait_for_selector("dialog[open]")
        assert tab.inner_text("#layer-name") == "mid.attention.to_q"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_cycles", 1e400),
        ("total_cycles", "\x1b[31m"),
        ("model", None),
        ("cycles", [[10**30]]),
        ("cycles", [[1]]),
        ("slots", 3),
        ("unit_cycles", [1]),
        ("verdict", {"bit_identical": "yes"}),
        ("strip", [[1, 2]]),
    ],
)
def test_hostile_report_is_a_sentence(report: RunReport, tmp_path: Path, name: str, value: object) -> None:
    (tmp_path / "report.json").write_text(json.dumps(json.loads(report.to_json()) | {name: value}))
    with pytest.raises(ReportError, match=r"report\.json: report: [^\x1b]*$"):
        load_report(tmp_path)


@pytest.mark.parametrize("text", [b"", b"[" * 100_000, b"[]", b"\xff\xfe", b"null"])
def test_file_that_is_no_report_is_a_sentence(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(ReportError, match=r"report\.json: "):
        load_report(tmp_path)


def test_strings_of_a_hostile_report_reach_no_terminal(report: RunReport, tmp_path: Path) -> None:
    evil = "\x1b]0;evil\x07"
    names = [evil + name for name in report.names]
    data = json.loads(report.to_json()) | {"model": evil, "names": names, "versions": {evil: evil}}
    (tmp_path / "report.json").write_text(json.dumps(data))
    found = load_report(tmp_path)
    assert all(text.isprintable() for text in (found.model, *found.names, *found.versions))
