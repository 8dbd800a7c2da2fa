"""Pages and progress, written in this process to consoles of known width and encoding."""

from __future__ import annotations

import doctest
import io
import math
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from optimum_core.artifact import FileEntry, Manifest, ModelInfo
from optimum_core.cli import diagnosis, values
from optimum_core.cli.console import make_console
from optimum_core.cli.report import fidelity_words, show_artifact
from optimum_core.cli.show import ProgressLine, show_hardware, show_plugins, show_report
from optimum_core.plugins import PluginInfo, Status
from optimum_core.types import (
    CandidateResult,
    CaseResult,
    Cpu,
    Event,
    Fidelity,
    Hardware,
    Limitation,
    Measurement,
    Offer,
    Report,
    Step,
    Support,
    TensorSpec,
    Transform,
)

HARDWARE = Hardware(
    system="linux",
    system_version="6.1",
    cpu=Cpu(
        vendor="intel",
        model="Acme CPU",
        architecture="x86_64",
        features=frozenset({"avx2"}),
        physical_cores=4,
        usable_cores=2,
    ),
    memory=8 * 2**30,
)
CASE = CaseResult(
    case="batch 3", shapes={"input_ids": (3, 7)}, output="logits", relative_error=3.1e-6, cosine=1.0, agreement=1.0,
    passed=True,
)  # fmt: skip
FIDELITY = Fidelity(precision="fp32", tolerance=1e-3, results=(CASE, replace(CASE, case="longer", relative_error=0.0)))
SHAPES = ("1x16", "1x128", "8x128")


def candidate(name: str, outcome: str, factor: float = 0.0) -> CandidateResult:
    times = tuple(
        Measurement(shape=shape, median=factor * (index + 1), p95=1.0, runs=9) for index, shape in enumerate(SHAPES)
    )
    return CandidateResult(
        name=name, backend="b", device="cpu", precision="fp32", outcome=outcome, reason=f"because {outcome}",  # type: ignore[arg-type]
        fidelity=FIDELITY if factor else None, measurements=times if factor else (), size=3 * 2**20 if factor else None,
        build_seconds=75.0, load_seconds=0.25,
    )  # fmt: skip


REPORT = Report(
    model="acme/bert",
    task="text-classification",
    workload=SHAPES,
    candidates=(
        candidate("onnx[torchscript] → ort cpu, level extended", "chosen", 2.0),
        replace(candidate("torch cpu (the model as it is)", "slower", 5.0), baseline=True),
        candidate("onnx[dynamo] → ort cpu", "wrong"),
        candidate("other gpu", "skipped"),
    ),
)
MANIFEST = Manifest(
    task="text-classification",
    model=ModelInfo(name="acme/bert", fingerprint="0"),
    backend="ort",
    device="cpu",
    format="onnx",
    precision="fp32",
    inputs=(TensorSpec(name="x", dtype="int64", shape=(1,)),),
    outputs=(),
    steps=(Step(hook="export", backend="onnx", tool="writer", version="2", options={"route": "dynamo"}),),
    verified=True,
    hardware=HARDWARE,
    model_files=("model.onnx",),
    files={"model.onnx": FileEntry(sha256="0" * 64, size=2048)},
    fidelity=FIDELITY,
    report=REPORT,
)


class Page(io.StringIO):
    """A stream of a terminal that knows only so much."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def console_of(page: Page, width: int = 80) -> Console:
    console = make_console(page)
    console.width = width
    return console


def report_page(report: Report, width: int = 80, encoding: str = "utf-8") -> str:
    page = Page(encoding)
    show_report(console_of(page, width), report)
    return page.getvalue()


def test_a_report_shows_every_shape_and_candidate_aligned_in_80_columns() -> None:
    lines = report_page(REPORT).splitlines()
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if "median latency" in line)
    rows = [line for line in lines if " ms " in line]
    assert len(rows) == 2
    for text, column in (("2.00 ms", "1x16"), ("4.00 ms", "1x128"), ("6.00 ms", "8x128"), ("2.50×", "× eager")):
        assert rows[0].index(text) + len(text) == head.index(column) + len(column)
    assert "1.00×" in rows[1] and "3.1e-06" in rows[1] and "3.0 MiB" in rows[1]
    assert not any(line.endswith(" ") for line in lines)


def test_a_report_tells_why_others_are_out_and_what_the_chosen_was_compared_on() -> None:
    text = " ".join(report_page(REPORT).split())
    assert "✗ onnx[dynamo] → ort cpu wrong because wrong" in text
    assert "– other gpu skipped because skipped" in text
    assert "level extended: because chosen, built in 1:15 min, loads in 250 ms" in text
    assert "agrees with the eager model in 2 cases, 1 output; tolerance 1.0e-03" in text
    assert "worst error 3.1e-06 (logits; batch 3)" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_width_loses_a_shape(width: int) -> None:
    many = tuple(f"{batch}x{length}" for batch in (1, 2, 4, 8) for length in (16, 64, 256))
    times = tuple(Measurement(shape=shape, median=1.5, p95=2.0, runs=3) for shape in many)
    chosen = replace(REPORT.candidates[0], measurements=times)
    page = report_page(replace(REPORT, workload=many, candidates=(chosen,)), width)
    assert all(page.split().count(shape) == 1 for shape in many)
    assert page.count("1.50 ms") == len(many)
    if width >= 80:
        assert max(map(len, page.splitlines())) <= width


def test_a_report_needs_no_more_than_ascii() -> None:
    page = report_page(REPORT, encoding="ascii")
    assert page.isascii() and "+ onnx[torchscript] -> ort" in page and "1.00x" in page and "x onnx[dynamo]" in page


def test_a_report_of_nothing_measured_or_chosen_still_shows() -> None:
    assert "wrong" in report_page(replace(REPORT, candidates=REPORT.candidates[2:3]))
    assert "0 candidates" in report_page(replace(REPORT, candidates=()))


def test_colour_is_used_on_a_terminal_only_and_never_with_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(terminal=True)
    show_report(console_of(page), REPORT)
    assert "\x1b[32m" in page.getvalue()
    assert "\x1b" not in report_page(REPORT)
    monkeypatch.setenv("NO_COLOR", "1")
    page = Page(terminal=True)
    show_report(console_of(page), REPORT)
    assert "\x1b[32m" not in page.getvalue()


def test_fidelity_in_words_never_calls_a_failure_an_agreement() -> None:
    wrong = replace(CASE, passed=False, relative_error=math.nan, problem="NaN where eager has none")
    text = fidelity_words(replace(FIDELITY, results=(CASE, wrong)))
    assert "DIFFERS FROM" in text and "NaN where eager has none" in text
    assert fidelity_words(None) == fidelity_words(replace(FIDELITY, results=()))
    assert "not on the device" in fidelity_words(replace(FIDELITY, level="graph"))


def test_an_artifact_tells_its_steps_size_and_machine() -> None:
    page = Page()
    show_artifact(console_of(page), MANIFEST)
    text = " ".join(page.getvalue().split())
    assert "Step export by onnx (writer 2): route=dynamo" in text
    assert "Size 2.0 KiB in 1 file" in text and "Acme CPU, 2 of 4 cores usable" in text
    assert "Verified yes" in text and "median latency" in text


def test_an_artifact_without_report_or_proof_says_so() -> None:
    page = Page()
    show_artifact(console_of(page), replace(MANIFEST, report=None, verified=False))
    assert "no report was saved" in page.getvalue() and "Verified  no" in page.getvalue()


def test_plugins_tell_offers_and_share_one_line_for_limits_of_one_reason() -> None:
    offer = Offer(
        device="cpu", loads=("onnx",), optimizes=(Transform(takes="onnx", gives="onnx"),), levels=("all",),
        quantizes=(Transform(takes="onnx", gives="plan"),), schemes=("static",), precisions=("fp32", "fp16"),
        proof="graph",
    )  # fmt: skip
    limits = tuple(Limitation(what=f"run on {name}", reason="no GPU", remedy="add one") for name in ("a", "b"))
    infos = (
        PluginInfo(name="acme", distribution="optimum-acme", version="1.0", status=Status.READY, hooks=("probe",)),
        PluginInfo(name="watch", distribution="", version="", status=Status.READY, hooks=("infer",)),
    )
    page = Page()
    show_plugins(console_of(page, 200), infos, {"acme": Support(offers=(offer,), limitations=limits)})
    text = page.getvalue()
    assert "optimizes onnx (all) · quantizes onnx → plan (static) · evaluates onnx, to check it · in fp32, fp16" in text
    assert "cannot run on a, run on b: no GPU → add one" in text
    assert "watch  registered in this process  no backend: it observes infer" in text
    page = Page()
    show_plugins(console_of(page), (), {})
    assert "Reinstall optimum-core" in page.getvalue()


def test_hardware_is_one_aligned_row_per_fact() -> None:
    page = Page()
    show_hardware(console_of(page), HARDWARE)
    rows = page.getvalue().splitlines()
    assert {
        row.index(text) for row, text in zip(rows, ("linux", "Acme", "avx2", "8.0", "none", "none"), strict=True)
    } == {14}


def test_progress_in_a_log_has_a_line_when_a_stage_begins_and_one_when_it_ends() -> None:
    page = Page()
    with ProgressLine(page) as progress:
        progress(Event(stage="export", detail="onnx " * 30))
        progress(Event(stage="export", detail="onnx " * 30, seconds=12.34))
        progress(Event(stage="verify", detail="x", seconds=0.5, problem="logits differ"))
    begun, ended, failed, problem = page.getvalue().splitlines()
    assert begun.startswith("… export") and ended.startswith("✓ export") and "12.3 s" in ended
    assert begun.index("onnx") == ended.index("onnx") == failed.index("x")
    assert failed.startswith("✗ verify") and problem.strip() == "logits differ"
    assert "\x1b" not in page.getvalue()


def test_progress_on_a_terminal_spins_on_what_runs_and_gives_the_cursor_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Page(terminal=True)
    with pytest.raises(KeyboardInterrupt), ProgressLine(page) as progress:
        progress(Event(stage="export", detail="outer"))
        progress(Event(stage="wait", detail="a wait that never ends"))
        progress(Event(stage="export", detail="outer", seconds=1.0))
        assert "\x1b[?25h" in page.getvalue(), "with nothing running, the cursor is back"
        progress(Event(stage="load", detail="more"))
        print("noise of an exporter")  # noqa: T201
        raise KeyboardInterrupt
    text = page.getvalue()
    assert "a wait that never ends" in text and "more" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"
    assert "noise" not in text and capsys.readouterr().out == "noise of an exporter\n"


def test_progress_draws_nothing_while_candidates_are_measured() -> None:
    page = Page(terminal=True)
    with ProgressLine(page) as progress:
        before = set(threading.enumerate())
        progress(Event(stage="export", detail="onnx"))
        (drawing,) = set(threading.enumerate()) - before
        progress(Event(stage="export", detail="onnx", seconds=1.0))
        drawing.join(timeout=300)
        progress(Event(stage="measure", detail="3 candidates"))
        assert set(threading.enumerate()) <= before
    assert "3 candidates" in page.getvalue()


def test_progress_does_not_spin_where_colour_is_forced_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    page = Page()
    with ProgressLine(page) as progress:
        progress(Event(stage="read", detail="bert"))
    assert "\x1b[?25l" not in page.getvalue() and page.getvalue().count("\n") == 1


def test_examples_in_the_documentation_hold() -> None:
    results = doctest.testmod(values)
    assert results.attempted > 5 and results.failed == 0


@pytest.mark.parametrize("text", ["", "1x", "0x1", "1x2,", "a=0", "1x2x3", "batch=1 2x3"])
def test_shapes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no shape"):
        values.parse_shapes(text)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 days", "1e999d", f"{'9' * 20}w"])
def test_ages_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"length of time|calendar"):
        values.parse_age(text)
    assert values.parse_age("1.5h") == timedelta(minutes=90)


def test_options_are_json_where_they_can_be_and_text_elsewhere() -> None:
    assert values.parse_options(["a=1", "b=x=y", 'c="1"', "d=NaN", "e="]) == {
        "a": 1, "b": "x=y", "c": "1", "d": "NaN", "e": "",
    }  # fmt: skip
    for pairs in (["a=1", "a=2"], ["=1"], ["a"]):
        with pytest.raises(ValueError, match=r"twice|not key=value"):
            values.parse_options(pairs)


def test_units_change_where_the_digits_would_overflow() -> None:
    assert [values.latency_words(value) for value in (0.9996, 9.996, 999.4, 999.6)] == [
        "1.00 ms", "10.0 ms", "999 ms", "1.00 s",
    ]  # fmt: skip
    assert [values.size_words(size) for size in (0, 1023, 1024, 2**20 - 1, 2**40)] == [
        "0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 TiB",
    ]  # fmt: skip
    assert [values.seconds_words(seconds) for seconds in (0.9996, 59.96, 3600)] == ["1.0 s", "1:00 min", "60:00 min"]


def test_scrubbing_reaches_every_text_and_stops_at_names_that_only_begin_alike(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "alice"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    support = Support(limitations=(Limitation(what="run", reason=f"{home}/lib is odd", remedy=f"see {home}2"),))
    found = diagnosis.scrub({"a": (support, f"/scratch/alice/x {home}", 3)})["a"]
    assert isinstance(found[0], Support)
    assert found[0].limitations[0].reason == "~/lib is odd"
    assert found[0].limitations[0].remedy == f"see {home}2"
    assert found[1:] == ("/scratch/<user>/x ~", 3)
