"""Traffic becomes a workload: what comes most counts most, in the race as in the report; wrong files are refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from optimum_core.errors import OptionError
from optimum_core.measure import score
from optimum_core.measure.workload import generation_workload, tuned_for, workload
from optimum_core.types import Measurement, ModelTraffic, ShapeCount, TensorSpec, Traffic
from optimum_core.types.traffic import rounded

TEXT = (TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),)


def _count(batch: int, sequence: int, count: int) -> ShapeCount:
    return ShapeCount(lengths={"batch": batch, "sequence": sequence}, count=count)


def _traffic(*calls: ShapeCount, name: str = "a", fingerprint: str = "f") -> ModelTraffic:
    return ModelTraffic(name=name, fingerprint=fingerprint, calls=calls, requests=(_count(1, 16, 3),))


def test_lengths_are_rounded_down_by_an_eighth_at_most() -> None:
    for length in range(1, 5000):
        assert rounded(length) <= length <= rounded(length) * 9 / 8
    assert len({rounded(length) for length in range(1, 5000)}) < 100


def test_a_file_is_read_as_it_was_written_and_counts_are_added() -> None:
    one = Traffic(models=(_traffic(_count(1, 16, 5), _count(4, 32, 2)),))
    other = Traffic(models=(_traffic(_count(1, 16, 1)), _traffic(_count(2, 8, 7), name="b", fingerprint="g")))
    both = Traffic.from_json((one + other).to_json(), "file")
    assert both == one + other
    assert both.of("f", "m").calls == (_count(1, 16, 6), _count(4, 32, 2))
    assert both.of("f", "m").requests == (_count(1, 16, 6),)
    renamed = both + Traffic(models=(_traffic(_count(1, 16, 1), name="c"),))
    assert renamed.of("f", "m").calls[0].count == 7
    with pytest.raises(OptionError, match="traffic is of other models: 'a', 'b'"):
        both.of("h", "m")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree.pop("schema_version"), "'schema_version' is missing"),
        (lambda tree: tree.update(schema_version=2), "schema_version is 2"),
        (lambda tree: tree.update(models=5), "not iterable"),
        (lambda tree: tree["models"][0].update(name=5), "the name of a model is 5"),
        (lambda tree: tree["models"][0]["calls"][0].update(count=0), "above 0"),
        (lambda tree: tree["models"][0]["calls"][0].update(count=True), "above 0"),
        (lambda tree: tree["models"][0]["calls"][0]["lengths"].update(batch=-1), "above 0"),
        (lambda tree: tree["models"][0]["calls"][0].pop("lengths"), "'lengths' is missing"),
    ],
)
def test_a_file_that_is_none_is_refused(change: Any, said: str) -> None:
    tree = json.loads(Traffic(models=(_traffic(_count(1, 16, 5)),)).to_json())
    change(tree)
    with pytest.raises(OptionError, match=said):
        Traffic.from_json(json.dumps(tree), "file")
    with pytest.raises(OptionError, match="no record of traffic"):
        Traffic.from_json(b"\xff{", "file")


def test_shapes_that_most_is_computed_in_are_kept_and_all_calls_are_counted() -> None:
    rare = [_count(1, length, 1) for length in range(2, 40, 2)]
    shapes = _traffic(_count(8, 128, 50), _count(1, 16, 1000), *rare).shapes(2)
    assert [(shape["batch"], shape["sequence"]) for shape in shapes] == [(8, 128), (1, 16)]
    assert sum(shape["calls"] for shape in shapes) == 1050 + len(rare)
    assert shapes[0]["calls"] == 50
    with pytest.raises(OptionError, match="no calls"):
        _traffic().shapes()


def test_a_workload_with_counts_weighs_its_shapes() -> None:
    work = workload(_traffic(_count(1, 16, 90), _count(1, 128, 10)).shapes(), TEXT)
    assert {shape.lengths["sequence"]: shape.calls for shape in work} == {16: 90, 128: 10}
    assert tuned_for(work) == (
        "tuned for the traffic of 100 calls: 90% at batch=1 sequence=16, 10% at batch=1 sequence=128"
    )
    assert tuned_for(workload(None, TEXT)) == ""
    (text,) = generation_workload([{"batch": 1, "sequence": 20, "new": 8, "calls": 4}], None)
    assert (text.name, text.calls) == ("1x20+8", 4)
    for shapes in ([{"batch": 1, "calls": 2}, {"batch": 2}], [{"batch": 1, "calls": 0}]):
        with pytest.raises(OptionError, match="calls"):
            workload(shapes, TEXT)


def test_the_mean_time_of_a_call_decides() -> None:
    def timed(short: float, long: float, calls: tuple[int | None, int | None]) -> float:
        values = zip(("s", "l"), (short, long), calls, strict=True)
        return score([Measurement(shape=name, median=ms, p95=ms, runs=1, calls=count) for name, ms, count in values])

    assert timed(1.0, 10.0, (90, 10)) == pytest.approx(1.9)
    assert timed(1.0, 10.0, (None, None)) == pytest.approx(math.sqrt(10))
    assert timed(1.0, 10.0, (90, 10)) < timed(2.0, 2.0, (90, 10)) and timed(1.0, 10.0, (1, 9)) > timed(2.0, 2.0, (1, 9))
