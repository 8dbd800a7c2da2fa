"""A report as text, Markdown, JSON and a picture: nothing lost, nothing that a reader of the format would refuse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from optimum_core.types import CandidateResult, CaseResult, Fidelity, Measurement, Promise, RecipeResult, Report
from optimum_core.types.rendering import brief, header, model_to_html, rows, to_html, to_text

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = ("1x16", "8x128")


def _times(*medians: float) -> tuple[Measurement, ...]:
    return tuple(
        Measurement(shape=shape, median=median, p95=2 * median, runs=3, items=items)
        for shape, median, items in zip(SHAPES, medians, (1, 8), strict=True)
    )


def _fidelity(error: float) -> Fidelity:
    result = CaseResult(
        case="c", shapes={"x": (1, 2)}, output="y", relative_error=error, cosine=1.0, agreement=None, passed=True
    )
    return Fidelity(precision="fp32", tolerance=1e-3, results=(result,))


CHOSEN = CandidateResult(
    name="onnx → ort <cpu> & more",
    backend="ort",
    device="cpu",
    precision="fp32",
    outcome="chosen",
    reason="fastest of 2 | true",
    fidelity=_fidelity(2e-6),
    measurements=_times(2.0, 40.0),
    build_seconds=1.25,
    load_seconds=0.5,
    size=3 * 2**20,
    memory=0,
)
SLOWER = replace(
    CHOSEN, name="torch cpu", outcome="slower", reason="2 times", measurements=_times(4.0, 50.0), baseline=True
)
WRONG = CandidateResult(
    name="acme",
    backend="acme",
    device="cpu",
    precision="fp32",
    outcome="wrong",
    reason="off",
    fidelity=_fidelity(math.inf),
)
REPORT = Report(
    model='a "model" <1>', task="text-classification", workload=SHAPES, candidates=(CHOSEN, SLOWER, WRONG), seconds=12.4
)


def test_a_row_says_all_that_is_known() -> None:
    assert len(header(REPORT)) == len(rows(REPORT)[0])
    cells = dict(zip(header(REPORT), rows(REPORT)[0], strict=True))
    assert cells[""] == "►"
    assert (cells["1x16 ms (p95)"], cells["8x128 ms (p95)"]) == ("2.00 (4.00)", "40.00 (80.00)")
    assert cells["items/s"] == "500"
    assert (cells["size"], cells["memory"]) == ("3 MiB", "0 MiB")
    assert (cells["error"], cells["build s"], cells["load s"]) == ("2.0e-06", "1.2", "0.5")
    assert cells["why"] == "chosen: fastest of 2 | true"


def test_what_was_not_found_out_is_a_dash() -> None:
    cells = dict(zip(header(REPORT), rows(REPORT)[2], strict=True))
    assert {cells[name] for name in ("1x16 ms (p95)", "items/s", "size", "memory", "build s")} == {"–"}
    assert (cells[""], cells["error"]) == ("✗", "inf")


def test_text_is_aligned() -> None:
    first, *table = to_text(REPORT, 200).splitlines()
    assert first == 'a "model" <1> (text-classification), for latency; searched 12 s'
    assert len(table) == 4
    starts = {line.index(word) for line, word in zip(table, ("why", "chosen:", "slower:", "wrong:"), strict=True)}
    assert len(starts) == 1
    assert to_text(replace(REPORT, from_cache=True), 200).splitlines()[0].endswith(", from the cache")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
@pytest.mark.parametrize("shapes", [2, 9])
def test_no_line_of_a_report_is_wider_than_the_terminal(
    width: int, shapes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(f"{index}x16" for index in range(shapes))
    times = tuple(Measurement(shape=shape, median=1.5, p95=2.0, runs=3) for shape in many)
    long = "a reason that is told at length, " * 5
    candidates = tuple(replace(item, measurements=times, reason=long) for item in (CHOSEN, SLOWER))
    trial = RecipeResult(name="static-int8 by ort " * 4, config={}, outcome="broken", reason=long)
    report = replace(REPORT, workload=many, candidates=candidates, walk=(trial,), notes=(long,))
    monkeypatch.setenv("COLUMNS", str(width))
    text = str(report)
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(text.split()).count("told at length,") >= 4 * 5
    assert "times eager" in text


def test_what_is_no_terminal_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    report = replace(REPORT, notes=("word " * 100,))
    assert 70 < max(map(len, str(report).splitlines())) <= 80


def test_the_eager_model_is_the_measure_of_all() -> None:
    cells = [dict(zip(header(REPORT), row, strict=True))["times eager"] for row in rows(REPORT)]
    assert cells == ["1.58×", "1.00×", "–"]  # sqrt(4/2 * 50/40)
    assert REPORT.times_eager(CHOSEN) == pytest.approx(math.sqrt(2.5))
    alone = replace(REPORT, candidates=(CHOSEN,))
    assert alone.times_eager(CHOSEN) is None
    assert "1.58×" in REPORT.to_markdown() and "1.58×" in to_html(REPORT)


def test_a_prompt_shows_a_report_in_one_line() -> None:
    assert repr(REPORT) == (
        '<report on a "model" <1> (text-classification): 3 candidates, onnx → ort <cpu> & more, 1.58 times eager>'
    )
    assert repr(replace(REPORT, candidates=(WRONG,))).endswith("1 candidate, none was chosen>")


def test_a_notebook_shows_well_formed_tables() -> None:
    walked = replace(REPORT, walk=(RecipeResult(name="<b>", config={}, outcome="kept"),), notes=("a < b",))
    page = ElementTree.fromstring(f"<div>{walked._repr_html_()}</div>")
    assert len(page.findall("table")) == 2
    assert "onnx → ort <cpu> & more" in [cell.text for cell in page.iter("td")]
    model = ElementTree.fromstring(f"<div>{model_to_html('<accelerated x>', REPORT)}</div>")
    assert model.find("p/code").text == "<accelerated x>"  # type: ignore[union-attr]
    assert model_to_html("x", None) == "<p><code>x</code></p>"


def test_markdown_is_a_table_whatever_the_reasons_hold() -> None:
    lines = [line for line in REPORT.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(header(REPORT)) + 1}
    assert "fastest of 2 \\| true" in lines[2]


def test_json_holds_everything_and_no_infinity() -> None:
    tree = json.loads(REPORT.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert [item["outcome"] for item in tree["candidates"]] == ["chosen", "slower", "wrong"]
    assert tree["candidates"][0]["measurements"][1] == {
        "shape": "8x128", "median": 40.0, "p95": 80.0, "runs": 3, "least": 0.0, "items": 8, "spread": 1.0,
        "tokens": None, "first": None, "calls": None, "joules": None, "joules_estimate": "",
    }  # fmt: skip
    assert tree["candidates"][2]["fidelity"]["results"][0]["relative_error"] is None
    assert tree["candidates"][0]["fidelity"]["results"][0]["shapes"] == {"x": [1, 2]}


def _bars(report: Report) -> list[ElementTree.Element]:
    picture = ElementTree.fromstring(report.to_svg())
    assert picture.tag == f"{SVG}svg"
    return [item for item in picture.iter(f"{SVG}rect") if item.get("x") is not None]


def test_bars_are_as_long_as_the_times_within_a_shape() -> None:
    widths = [float(bar.get("width", "")) for bar in _bars(REPORT)]
    assert len(widths) == 4
    assert widths[0] / widths[1] == pytest.approx(2.0 / 4.0, rel=1e-2)
    assert widths[2] / widths[3] == pytest.approx(40.0 / 50.0, rel=1e-2)
    assert widths[1] == widths[3]


def test_the_chosen_has_a_colour_of_its_own() -> None:
    chosen, slower, *_ = (bar.get("fill") for bar in _bars(REPORT))
    assert chosen != slower


def test_names_are_escaped_and_nothing_lies_outside() -> None:
    picture = ElementTree.fromstring(REPORT.to_svg())
    texts = [item.text or "" for item in picture.iter(f"{SVG}text")]
    assert "onnx → ort <cpu> & more" in texts
    assert any('a "model" <1>' in text for text in texts)
    width, height = float(picture.get("width", "0")), float(picture.get("height", "0"))
    for bar in _bars(REPORT):
        assert float(bar.get("x", "")) + float(bar.get("width", "")) < width
        assert float(bar.get("y", "")) + float(bar.get("height", "")) <= height


@pytest.mark.parametrize("odd", [math.nan, math.inf, 0.0])
def test_odd_times_spoil_nothing(odd: float) -> None:
    report = replace(REPORT, candidates=(replace(CHOSEN, measurements=_times(odd, odd)), SLOWER))
    for bar in _bars(report):
        assert 0 < float(bar.get("width", "")) < 1000
    assert len(to_text(report, 200).splitlines()) == 4
    json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_report_of_nothing() -> None:
    empty = Report(model="m", task="t", workload=(), candidates=())
    assert empty.chosen is None
    assert _bars(empty) == []
    assert len(str(empty).splitlines()) == 2


def test_a_promise_is_told_though_nothing_was_tried() -> None:
    promise = Promise(metric="accuracy", baseline=0.75, max_drop="-0.2", limit=-0.2, data="80 labelled rows")
    report = replace(REPORT, promise=promise, walk=(), notes=("calibrated on 20 items",))
    for text in (to_text(report, 200), report.to_markdown(), to_html(report)):
        assert "Promise: accuracy on 80 labelled rows, 0.7500 eager, may drop by -0.2; not kept" in text
        assert "calibrated on 20 items" in text


def test_many_recipes_skipped_for_one_reason_are_one_line_to_people_and_all_there_in_the_data() -> None:
    over = [RecipeResult(name=f"recipe {i}", config={}, outcome="skipped", reason="the time is over") for i in range(5)]
    other = [RecipeResult(name=name, config={}, outcome="skipped", reason="no data") for name in ("one", "two")]
    broken = RecipeResult(name="broken", config={}, outcome="broken", reason="off", value=0.5, drop=0.25)
    report = replace(REPORT, walk=(*other, broken, *over))
    assert [trial.name for trial in brief(report.walk)] == ["one", "two", "broken", "5 more"]
    for text in (to_text(report, 200), report.to_markdown(), to_html(report)):
        assert "5 more" in text and "recipe 3" not in text
        assert text.count("the time is over") == 1
    assert len(json.loads(report.to_json())["walk"]) == 8


def test_an_estimated_energy_says_so_below_the_table() -> None:
    counted = replace(CHOSEN, measurements=tuple(replace(item, joules=0.02) for item in CHOSEN.measurements))
    assert "estimated" not in replace(REPORT, candidates=(counted,)).to_markdown()
    guessed = tuple(replace(item, joules_estimate="a table: 8 W for 2 threads") for item in counted.measurements)
    text = replace(REPORT, candidates=(replace(counted, measurements=guessed),)).to_markdown()
    assert "mJ a call" in text and "estimated from this process's processor time by a table: 8 W for 2 threads" in text
