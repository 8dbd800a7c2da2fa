"""Data of calibration is never data of evaluation, whatever form it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from optimum_core.errors import OptionError
from optimum_core.models.data.batches import Batches
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.search.quantized import data as evidence
from optimum_core.search.quantized.data import LEAST_ROWS, SHARE, DataPreparer, QuantizationData, read_data
from optimum_core.types import Event, QuantizeConfig
from optimum_core.verify.promise import Called, Labelled

Described = Callable[[str], tuple[Any, Any]]
Gather = Callable[..., QuantizationData]


class Words:
    """A tokenizer: one id a word."""

    pad_token = "[PAD]"
    model_max_length = 30

    def __call__(self, *, text: list[str], **_: Any) -> dict[str, Any]:
        rows = [[int(word) for word in line.split()] for line in text]
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}


@pytest.fixture(scope="module")
def gather(described: Described) -> Iterator[Gather]:
    """Everything that is read from what a user passed; the workshop is gone afterwards, so batches are kept here."""
    module, signature = described("bert")

    def run(
        calibration: Any = None,
        evaluate: Any = None,
        *,
        max_drop: Any = None,
        config: QuantizeConfig | None = None,
        emit: Any = lambda event: None,
        calibrates: bool = True,
        workshop: Path,
    ) -> QuantizationData:
        return DataPreparer(
            stated=read_data(calibration, evaluate, max_drop, config),
            module=module,
            signature=signature,
            processor=Words(),
            workshop=workshop,
            emit=emit,
            calibrates=calibrates,
        ).prepare()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


def _items(batches: Iterable[Any]) -> list[tuple[int, ...]]:
    """Each item's ids without padding."""
    return [
        tuple(int(token) for token in row[mask.astype(bool)])
        for inputs in batches
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


def _judged(found: QuantizationData) -> list[tuple[int, ...]]:
    """The items that are judged on."""
    items = _items(case.inputs for case in found.unseen)
    if isinstance(found.metric, Labelled):
        items += _items(found.metric.batches)
    return items


def _text(row: tuple[int, ...]) -> str:
    return " ".join(map(str, row))


ids = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=12, max_size=60)


def _as(form: str, rows: list[tuple[int, ...]], labelled: bool) -> Any:
    """The same rows in several forms."""
    if form == "texts":
        return [(_text(row), sum(row) % 5) if labelled else _text(row) for row in rows]
    if form == "columns":
        return [{"sentence": _text(row), "label": sum(row) % 5} for row in rows]
    encoded = [
        {"input_ids": torch.tensor(row), "attention_mask": torch.ones(len(row), dtype=torch.int64), "label": 1}
        for row in rows
    ]
    if form == "items":
        return encoded
    loader: Any = torch.utils.data.DataLoader(encoded, batch_size=int(form.partition(" ")[2]))  # type: ignore[arg-type]
    return loader


#: Each example asks a model; what fails is small as it is.
SOME = settings(max_examples=15, deadline=None, phases=[Phase.generate])
FORMS = st.sampled_from(["texts", "columns", "items", "batches 3", "batches 12"])


@SOME
@given(calibration=ids, evaluate=st.none() | ids, forms=st.tuples(FORMS, FORMS))
def test_no_row_is_for_calibration_and_for_judging(
    gather: Gather,
    calibration: list[tuple[int, ...]],
    evaluate: list[tuple[int, ...]] | None,
    forms: tuple[str, str],
) -> None:
    with TemporaryDirectory() as place:
        labelled = None if evaluate is None else _as(forms[1], evaluate, labelled=True)
        try:
            found = gather(_as(forms[0], calibration, labelled=False), labelled, workshop=Path(place))
        except OptionError as error:  # where most rows repeat, too few remain
            assert "rows remain" in error.why or "no rows left" in error.why
            return
        assert found.calibration is not None
        fitted, judged = _items(found.calibration), _judged(found)
    assert not set(fitted) & set(judged)
    assert len(fitted) >= LEAST_ROWS
    assert len(fitted) == len(set(fitted)) or forms[0].startswith("batches")
    assert set(fitted) <= set(calibration)
    assert set(judged) <= set(calibration if evaluate is None else evaluate)
    if evaluate is not None:
        assert set(judged) == set(evaluate)


@SOME
@given(rows=ids, form=FORMS)
def test_labelled_rows_alone_are_shared_out(gather: Gather, rows: list[tuple[int, ...]], form: str) -> None:
    with TemporaryDirectory() as place:
        try:
            found = gather(None, _as(form, rows, labelled=True), workshop=Path(place))
        except OptionError as error:
            assert "rows remain" in error.why or "no rows left" in error.why
            return
        judged = set(_judged(found))
        if found.calibration is None:  # too few to be shared: all are judged on
            assert judged == set(rows)
            assert len(judged) < SHARE * LEAST_ROWS or form.startswith("batches")
            return
        fitted = set(_items(found.calibration))
    assert len(fitted) >= LEAST_ROWS
    assert not fitted & judged


def test_one_row_of_four_is_kept_to_judge_on(gather: Gather, tmp_path: Path, described: Described) -> None:
    rows: list[tuple[int, ...]] = [(i + 1, 2, 3) for i in range(40)]
    found = gather(_as("items", rows, labelled=False), workshop=tmp_path)
    assert found.calibration is not None
    assert _judged(found) == rows[SHARE - 1 :: SHARE]
    assert len(_items(found.calibration)) == 30
    module, _ = described("bert")
    for case in found.unseen:  # with eager's own word on it
        np.testing.assert_array_equal(case.outputs["logits"], eager_outputs(module, case.inputs)["logits"])


def test_with_a_function_calibration_still_keeps_rows_back(gather: Gather, tmp_path: Path) -> None:
    def metric(model: Any) -> float:
        raise AssertionError("it is not called by reading data")

    found = gather(_as("texts", [(i + 1,) for i in range(20)], labelled=False), metric, workshop=tmp_path)
    assert found.metric == Called(function=metric)
    assert len(_judged(found)) == 5


def test_nothing_passed_is_no_evidence(gather: Gather, tmp_path: Path) -> None:
    assert gather(workshop=tmp_path) == QuantizationData()


def test_no_more_is_read_than_is_of_use(gather: Gather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "CALIBRATION_ROWS", 12)
    monkeypatch.setattr(evidence, "UNSEEN_ROWS", 3)
    found = gather((_text((i // 50 + 1, i % 50 + 1)) for i in range(1000)), workshop=tmp_path)
    assert isinstance(found.calibration, Batches)
    assert (found.calibration.items, len(_judged(found))) == (12, 3)


@pytest.mark.parametrize(
    ("calibration", "evaluate", "said"),
    [
        ([_text((i + 1,)) for i in range(LEAST_ROWS)], None, "6 rows remain to calibrate on"),
        (["1 2"] * 50, None, r"1 rows remain(.|\n)*repeat(.|\n)*dynamic-int8"),
        ([_text((i + 1,)) for i in range(20)], [(_text((i + 1,)), 0) for i in range(20)], "no rows left"),
        ([], None, "no rows left"),
    ],
)
def test_too_little_is_an_error_that_counts(
    calibration: Any, evaluate: Any, said: str, gather: Gather, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=said):
        gather(calibration, evaluate, workshop=tmp_path)


def test_what_the_model_refuses_is_told_before_anything_is_built(gather: Gather, tmp_path: Path) -> None:
    rows = [{"input_ids": [500 + i, 2]} for i in range(20)]  # of a vocabulary of 120
    with pytest.raises(OptionError, match=r"calibration, row 1: input 'input_ids' has the value 500, .* 0 to 119"):
        gather(rows, workshop=tmp_path)


def test_a_row_that_is_too_long_is_found_wherever_it_is(gather: Gather, tmp_path: Path) -> None:
    rows = [{"input_ids": [i + 1, 2]} for i in range(20)]
    rows.insert(17, {"input_ids": [3] * 500})  # the model has 64 positions
    with pytest.raises(OptionError, match=r"calibration: the model does not run on a batch(.|\n)*\[1, 500\]"):
        gather(rows, workshop=tmp_path / "calibration")
    labelled = [{**row, "label": 0} for row in rows]
    with pytest.raises(OptionError, match=r"evaluate: the model does not run on a batch(.|\n)*\[1, 500\]"):
        gather(None, labelled, workshop=tmp_path / "evaluate")


def test_what_needs_no_data_leaves_all_labelled_rows_to_judge(gather: Gather, tmp_path: Path) -> None:
    rows = [(_text((i + 1, 2)), 0) for i in range(40)]
    found = gather(None, rows, workshop=tmp_path, calibrates=False)
    assert found.calibration is None
    assert len(_items(found.metric.batches if isinstance(found.metric, Labelled) else [])) == 40


def test_reading_is_told(gather: Gather, tmp_path: Path) -> None:
    events: list[Event] = []
    gather(_as("texts", [(i + 1,) for i in range(20)], labelled=False), emit=events.append, workshop=tmp_path)
    assert {event.stage for event in events} == {"calibrate"}
    assert any("calibration data" in event.detail for event in events)


# What was passed, before the model is known.


def test_a_recipes_metric_and_drop_are_for_what_was_not_said() -> None:
    config = QuantizeConfig(metric="f1", max_drop="2%")
    rows = [("a", 0)]
    material = read_data(None, rows, None, config)
    assert (material.metric, str(material.drop)) == ("f1", "2 %")
    material = read_data(None, ("matthews", rows), 0.5, config)
    assert (material.metric, str(material.drop)) == ("matthews", "0.5")
    material = read_data(None, rows, None, None)
    assert (material.metric, str(material.drop)) == ("accuracy", "0.01")
    assert read_data(["a"], None, None, None).drop is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, None, None, QuantizeConfig(metric="f1")), "'f1' needs labelled data"),
        ((None, "accuracy", None, None), "'accuracy' has no labelled data"),
        ((None, ("bleu", [("a", 0)]), None, None), r"'bleu' is no metric(.|\n)*accuracy, f1"),
        ((None, ("accuracy", [("a", 0)]), 5, None), r"a drop of 5 allows everything(.|\n)*0.05, or '5%'"),
        ((None, None, -1, None), r"max_drop: a drop below zero \(-1\)"),
        ((None, 3, None, None), "evaluate: it is one int"),
        (("text", None, None, None), "calibration: it is one str"),
        (({"input_ids": [[1]]}, None, None, None), "calibration: it is one mapping, of input_ids"),
        ((None, None, "lots", None), "max_drop"),
    ],
)
def test_what_could_not_serve_is_refused(arguments: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        read_data(*arguments)


def test_a_question_tells_data_labels_metric_and_drop_apart() -> None:
    def asked(calibration: Any, evaluate: Any, max_drop: Any) -> str:
        return str(read_data(calibration, evaluate, max_drop, None).question())

    def score(model: Any) -> float:
        return 0.0

    rows = [("a", 0), ("b", 1)]
    same = asked(["a", "b"], rows, 0.01)
    assert same == asked(iter(["a", "b"]), iter(rows), 0.01)
    others = [
        asked(["a", "c"], rows, 0.01),
        asked(["a", "b"], [("a", 0), ("b", 0)], 0.01),
        asked(["a", "b"], ("f1", rows), 0.01),
        asked(["a", "b"], rows, "0.01%"),
        asked(["a", "b"], rows, 0.010001),
        asked(["a", "b"], None, 0.01),
        asked(["a", "b"], score, 0.01),
        asked(None, rows, 0.01),
    ]
    assert len({same, *others}) == 1 + len(others)
