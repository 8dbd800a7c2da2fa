"""The promise: metrics are scikit-learn's, drops are counted from eager, and a metric without a number is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from optimum_core.errors import EvaluationError, OptionError
from optimum_core.models.data.batches import Batches
from optimum_core.types.quantization import METRICS, parse_drop
from optimum_core.verify.promise import (
    Called,
    Labelled,
    evaluate_words,
    keeps,
    label_array,
    make_promise,
    promise_notes,
)

NAMES = {"negative": 0, "neutral": 1, "positive": 2}


@dataclass
class Fake:
    """A model that gives out what went in; as `accelerate` would return it, itself."""

    seen: list[Mapping[str, Any]] = field(default_factory=list)

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.seen.append(inputs)
        return {"logits": inputs["x"], "other": inputs["x"] * 0}

    def model(self) -> Any:
        return self


def _labelled(
    place: Path, metric: str, batches: list[tuple[Any, Any]], label_ids: Mapping[str, int] | None = None
) -> Labelled:
    place.mkdir(exist_ok=True)
    for number, (values, _) in enumerate(batches):
        np.savez(place / f"{number}.npz", x=np.asarray(values, dtype=np.float32))
    kept = Batches(
        directory=place, sizes=tuple(len(values) for values, _ in batches), labels=tuple(item for _, item in batches)
    )
    return Labelled(metric=metric, batches=kept, output="logits", label_ids=label_ids or NAMES)


def _value(place: Path, metric: str, batches: list[tuple[Any, Any]]) -> float:
    return _labelled(place, metric, batches).value(Fake())


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_what_others_compute(metric: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(60, 3)), random.integers(0, 3, 60)
    logits[np.arange(0, 60, 2), labels[::2]] += 3
    scores = np.round(random.normal(size=60), 1)  # with ties
    near = np.round(scores + random.normal(size=60), 1)
    guessed = logits.argmax(axis=-1)
    want = {
        "accuracy": metrics.accuracy_score(labels, guessed),
        "f1": metrics.f1_score(labels, guessed, average="macro"),
        "matthews": metrics.matthews_corrcoef(labels, guessed),
        "pearson": scipy.stats.pearsonr(near, scores).statistic,
        "spearman": scipy.stats.spearmanr(near, scores).statistic,
    }
    ranked = metric not in ("pearson", "spearman")
    values, truth = (logits, labels) if ranked else (scores[:, None], near)
    batches = [(values[:40], truth[:40].tolist()), (values[40:], truth[40:])]
    assert _value(tmp_path, metric, batches) == pytest.approx(want[metric], abs=1e-6)


def test_all_right_is_one_and_all_wrong_is_nothing(tmp_path: Path) -> None:
    logits = np.eye(3)
    for metric in ("accuracy", "f1", "matthews"):
        assert _value(tmp_path, metric, [(logits, [0, 1, 2])]) == 1.0
    assert _value(tmp_path, "accuracy", [(logits, [1, 2, 0])]) == 0.0


def test_labels_by_name(tmp_path: Path) -> None:
    assert _value(tmp_path, "accuracy", [(np.eye(3), ["negative", "neutral", "negative"])]) == pytest.approx(2 / 3)
    with pytest.raises(OptionError, match=r"label 'sour' is unknown(.|\n)*negative, neutral, positive"):
        label_array(["sour"], NAMES)


@pytest.mark.parametrize("labels", [[[0, 1, -100], [2, 0]], [["negative", "neutral", -100], ["positive", "negative"]]])
def test_labels_of_tokens_without_those_that_do_not_count(labels: Any, tmp_path: Path) -> None:
    logits = np.zeros((2, 4, 3))
    for row, column, guess in [(0, 0, 0), (0, 1, 1), (0, 2, 1), (0, 3, 2), (1, 0, 2), (1, 1, 1), (1, 2, 2)]:
        logits[row, column, guess] = 1.0
    # Four labels count: three are right; what stands under -100 and behind a row's end does not.
    assert _value(tmp_path, "accuracy", [(logits, labels)]) == 0.75


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"labels have shape \(3, 2\), the model's predictions \(3,\)"):
        _value(tmp_path, "accuracy", [(np.eye(3), [[0, 1]] * 3)])


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_constant_has_no_correlation(metric: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=rf"evaluate \({metric}\): it gave nan"):
        _value(tmp_path, metric, [(np.ones((4, 1)), [1.0, 2.0, 3.0, 4.0])])


# Functions.


@pytest.mark.parametrize(
    "half",
    [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), torch.tensor(0.5, requires_grad=True), Fraction(1, 2)],
)
def test_a_function_gets_the_model_and_may_return_any_number(half: Any) -> None:
    fake = Fake()

    def metric(model: Any) -> Any:
        assert model is fake and not model.seen
        return half

    called = Called(function=metric)
    assert (called.value(fake), called.name) == (0.5, "metric")
    assert type(fake) is Fake


def _giving(*values: float) -> Called:
    """Return a metric of these values, in turn."""
    answers = iter(values)

    def metric(model: Fake) -> float:
        assert not model.seen
        return next(answers)

    return Called(function=metric)


def test_a_metric_that_varies_by_more_than_the_drop_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"it gave 0\.91 and then 0\.87 for the same model(.|\n)*a drop of 0\.01"):
        make_promise(_giving(0.91, 0.87), Fake(), parse_drop(0.01))
    with pytest.raises(EvaluationError, match="a drop of 0 may be chance"):
        make_promise(_giving(0.91, 0.9101), Fake(), parse_drop(0))


@pytest.mark.parametrize("values", [(0.91, 0.905), (0.905, 0.91)])
def test_a_metric_that_varies_by_less_counts_from_the_better_value_and_that_is_said(values: tuple[float, ...]) -> None:
    promise = make_promise(_giving(*values), Fake(), parse_drop(0.01))
    assert promise.baseline == 0.91
    assert promise.noise == pytest.approx(0.005)
    assert [*promise_notes(promise, by_function=True)] == [
        "metric of one and the same model differed by 0.005: a loss up to that is chance"
    ]


def test_a_function_that_takes_long_is_called_once_and_that_is_said(tmp_path: Path) -> None:
    promise = make_promise(_giving(0.91), Fake(), parse_drop(0.01), patience=0.0)
    assert ["computed once" in note for note in promise_notes(promise, by_function=True)] == [True]
    rows = make_promise(_labelled(tmp_path, "accuracy", [(np.eye(3), [0, 1, 2])]), Fake(), parse_drop(0.01))
    assert not [*promise_notes(rows, by_function=False)]


@pytest.mark.parametrize(("baseline", "drop"), [(0.9, 5), (0.9, 1), (91.2, 95), (0.9, "100%")])
def test_a_drop_down_to_zero_is_refused(baseline: float, drop: Any) -> None:
    with pytest.raises(OptionError, match=r"allows everything: eager has metric(.|\n)*'1%'"):
        make_promise(_giving(baseline, baseline), Fake(), parse_drop(drop))


def test_eager_that_has_nothing_to_lose_is_noted(tmp_path: Path) -> None:
    promise = make_promise(_labelled(tmp_path, "accuracy", [(np.eye(3), [1, 2, 0])]), Fake(), parse_drop(0.01))
    assert [*promise_notes(promise, by_function=False)] == [
        "eager has accuracy 0, so that a drop of 0.01 allows everything: do the rows fit the model?"
    ]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda model: 1 / 0, "it raised ZeroDivisionError"),
        (lambda model: float("nan"), "it gave nan"),
        (lambda model: float("-inf"), "it gave -inf"),
        (lambda model: torch.tensor(torch.nan), "it gave nan"),
        (lambda model: None, "it gave a NoneType, no number"),
        (lambda model: "good", "it gave a str"),
        (lambda model: "0.9", "it gave a str"),
        (lambda model: {"accuracy": 1.0}, r"it gave a dict, no number(.|\n)*one number, such as its 'accuracy'"),
        (lambda model: np.zeros(2), r"it gave a ndarray of shape \(2,\), no number"),
        (lambda model: torch.zeros(2), r"it gave a Tensor of shape \(2,\), no number"),
        (lambda model: 1j, "it gave a complex"),
        (lambda: 1.0, "it raised TypeError"),
        (lambda model: 1.0, "it did not use the model that it was given"),
    ],
)
def test_a_function_that_gives_no_number(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(EvaluationError, match=said):
        Called(function=function).value(Fake())


# Promises.


@pytest.mark.parametrize(
    ("baseline", "drop", "least"),
    [(0.9, 0.01, 0.89), (0.9, "1%", 0.891), (-4.0, "10%", -4.4), (0.9, 0, 0.9), (0.9, -0.05, 0.95), (0.8, "-5%", 0.84)],
)
def test_what_is_left_decides(baseline: float, drop: Any, least: float) -> None:
    promise = make_promise(_giving(baseline, baseline), Fake(), parse_drop(drop))
    assert promise.baseline == baseline
    assert baseline - promise.limit == pytest.approx(least)
    assert keeps(promise, least)
    assert keeps(promise, least + 0.01)
    assert not keeps(promise, least - 1e-4)


finite = st.floats(-1e3, 1e3)


@given(finite, st.floats(0, 0.99), st.booleans(), finite, finite)
def test_more_is_never_worse(baseline: float, amount: float, relative: bool, one: float, other: float) -> None:
    drop = parse_drop(f"{amount}%" if relative else amount)
    promise = make_promise(_giving(baseline, baseline), Fake(), drop)
    assert keeps(promise, baseline)
    low, high = sorted((one, other))
    assert keeps(promise, high) or not keeps(promise, low)


# What was passed.


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (("f1", ["rows"]), ("f1", ["rows"])),
        (["f1", ["rows"]], ["f1", ["rows"]]),
        ([("a", 0)], ("", [("a", 0)])),
        ((("a", 0), ("b", 1)), ("", (("a", 0), ("b", 1)))),
        (len, None),
    ],
)
def test_a_metric_with_rows_and_rows_alone(evaluate: Any, words: Any) -> None:
    assert evaluate_words(evaluate) == words


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ("f1", "'f1' has no labelled data beside it"),
        (("f1",), "'f1' has no labelled data beside it"),
        (("bleu", ["rows"]), r"'bleu' is no metric(.|\n)*one of accuracy, f1"),
        (("Accuracy", ["rows"]), "'Accuracy' is no metric"),
    ],
)
def test_a_metric_without_rows_is_refused(evaluate: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        evaluate_words(evaluate)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([101, 100], "label 101 is none that the model can give, which are 0 to 2"),
        ([0, -1], "label -1 is none"),
        ([None, None], "labels are no numbers"),
        ([0, float("nan")], "label nan is none"),
        ([0.5, 1], "label 0.5 is none"),
    ],
)
def test_labels_that_no_prediction_equals_are_refused(labels: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        _value(tmp_path, "accuracy", [([[0.0, 1.0, 2.0]] * 2, labels)])


#: Of two rows of five tokens, the last of which are padding.
MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])


def _of_tokens(place: Path, labels: Any) -> float:
    np.savez(place / "0.npz", x=np.tile(np.eye(2, dtype=np.float32)[1], (2, 5, 1)), attention_mask=MASK)
    batches = Batches(directory=place, sizes=(2,), labels=(labels,))
    return Labelled(metric="accuracy", batches=batches, output="logits", label_ids=NAMES).value(Fake())


@pytest.mark.parametrize("labels", [[[1, 0, 1], [1, 1, 1]], [[1, 0], [1]], [[1] * 6, [1] * 3]])
def test_labels_of_words_are_not_compared_with_tokens(labels: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"rows have up to \d labels and up to 4 tokens"):
        _of_tokens(tmp_path, labels)


@pytest.mark.parametrize("labels", [[[1, 0, 1, 1], [1, 1, -100]], [[1, 0, 1, 1, -100, -100], [1, 1]]])
def test_labels_of_tokens_are_compared_with_theirs(labels: Any, tmp_path: Path) -> None:
    assert _of_tokens(tmp_path, labels) == pytest.approx(5 / 6)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_what_goes_by_one_number_refuses_more(metric: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="one number for each row, and the model gives 3"):
        _value(tmp_path, metric, [([[0.0, 1.0, 2.0]] * 2, [0, 1])])


def test_labels_of_one_row_need_no_batch(tmp_path: Path) -> None:
    tokens = [[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]]
    assert _value(tmp_path, "accuracy", [(tokens, [1, 1, -100])]) == 0.5


class Together(Fake):
    """A model whose answer for an item depends on the others of the call: only the greatest of a call counts."""

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        self.seen.append(inputs)
        return {"logits": np.where(inputs["x"] == inputs["x"].max(), 1.0, 0.0)}


def test_each_item_can_be_a_call_of_its_own(tmp_path: Path) -> None:
    batches = [([[1.0, 2.0], [5.0, 4.0], [2.0, 3.0]], [1, 0, 1]), ([[3.0, 1.0]], [0])]
    metric = _labelled(tmp_path, "accuracy", batches)
    assert metric.value(Together()) == 0.5  # in the batch, the second item drowns the others
    alone = Together()
    assert replace(metric, alone=True).value(alone) == 1.0
    assert [len(inputs["x"]) for inputs in alone.seen] == [1, 1, 1, 1]
