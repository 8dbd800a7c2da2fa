"""The allowed loss by quantization: a metric of the eager model, and of every candidate, on the user's data.

Without a metric, the arg-max of outputs that rank decides, compared with the eager model's on unseen data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from optimum_core.errors import EvaluationError, OptionError, UnavailableError
from optimum_core.models.data.batches import Batches
from optimum_core.turns import turn_lent
from optimum_core.types import Promise
from optimum_core.types.arrays import NDArray
from optimum_core.types.quantization import METRICS, TEXT_METRICS, Drop
from optimum_core.verify.comparison import Run
from optimum_core.verify.model_use import noting_use

#: The allowed loss if a metric is given and no drop is stated.
DEFAULT_DROP = 0.01
#: The same for a metric that has no end, as a share of eager's value.
DEFAULT_RISE = "1%"
#: Metrics that go from 0 to 1.
UP_TO_ONE = ("accuracy", "f1")
_IGNORED = -100  # transformers' label of positions that do not count
_ROUNDING = 1e-9  # error of a value in floating point


class Evaluated(Protocol):
    """A model under evaluation: `run` takes arrays, `model` returns it as `accelerate` would."""

    @property
    def run(self) -> Run: ...

    def model(self) -> Any:
        """Return an `AcceleratedModel`."""
        ...


class Metric(Protocol):
    """A metric of a model; more is better, unless it `rises` when the model gets worse."""

    @property
    def name(self) -> str: ...

    @property
    def data(self) -> str:
        """The data that it is measured on, in words."""
        ...

    @property
    def rises(self) -> bool: ...

    def value(self, evaluated: Evaluated) -> float:
        """Return the metric's value for a model.

        Raises:
            EvaluationError: the metric gives no number.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """A metric computed by a user's function of the accelerated model."""

    function: Callable[[Any], Any]
    rises: bool = False

    @property
    def name(self) -> str:
        name = str(getattr(self.function, "__name__", type(self.function).__name__))
        return name if name.isidentifier() else "evaluate"

    @property
    def data(self) -> str:
        return "data of its own"

    def value(self, evaluated: Evaluated) -> float:
        """Return the function's number.

        Raises:
            EvaluationError: it raises, gives no number, or did not use the model.
        """
        who, model = f"evaluate ({self.name})", evaluated.model()
        with noting_use(model) as was_used, turn_lent():
            try:
                found = self.function(model)
            except Exception as error:  # anything may go wrong in a user's own code
                remedy = "make it take the accelerated model and return a number, more of which is better"
                raise EvaluationError(who, f"it raised {type(error).__name__}: {error}", remedy) from error
            number = _number(found, who)
            if not was_used():
                why = "it did not use the model that it was given, so that its number says nothing of it"
                raise EvaluationError(who, why, "evaluate its argument: each candidate is passed to it in turn")
        return number


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A metric by name on labelled data.

    Attributes:
        output: the output that holds the model's predictions ("logits").
        label_ids: numbers of labels that are given by name.
        alone: each item is a call of its own, rather than each batch.
    """

    metric: str
    batches: Batches
    output: str
    label_ids: Mapping[str, int]
    alone: bool = False
    rises: bool = False

    @property
    def name(self) -> str:
        return self.metric

    @property
    def data(self) -> str:
        return f"{self.batches.items} labelled row{'' if self.batches.items == 1 else 's'}"

    def value(self, evaluated: Evaluated) -> float:
        """Return the metric of the model's predictions."""
        found: list[Any] = []
        labels: list[Any] = []
        for inputs, label in self._calls():
            values = np.asarray(evaluated.run(inputs)[self.output])
            truth = label_array(label, self.label_ids)
            ranked = self.metric not in ("pearson", "spearman")
            guessed, true = _paired(values, truth, inputs.get("attention_mask"), ranked=ranked)
            found.append(guessed)
            labels.append(true)
        return _number(
            _METRICS[self.metric](np.concatenate(labels), np.concatenate(found)), f"evaluate ({self.metric})"
        )

    def _calls(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Yield inputs and labels of each call."""
        for size, inputs, label in zip(self.batches.sizes, self.batches, self.batches.labels, strict=True):
            items = len(label) if hasattr(label, "__len__") and not isinstance(label, str) else 1
            if not self.alone or size == 1 or items != size:
                yield inputs, label
                continue
            for index in range(size):
                one = slice(index, index + 1)
                yield {name: array[one] for name, array in inputs.items()}, label[one]


def label_array(labels: Any, label_ids: Mapping[str, int]) -> NDArray:
    """Return labels as numbers, rows of unequal length padded with -100.

    Raises:
        OptionError: a label is a name that the model's configuration does not know, or no number.
    """
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    rows = [_label(item, label_ids) for item in (labels if isinstance(labels, list | tuple | np.ndarray) else [labels])]
    longest = max((len(row) for row in rows if isinstance(row, list)), default=0)
    filled = [row + [_IGNORED] * (longest - len(row)) for row in rows] if longest else rows
    array = np.asarray(filled)
    if array.dtype.kind not in "iufb":
        raise OptionError("evaluate", f"labels are no numbers: {str(labels)[:60]}", "pass a label with every row")
    return array


def _label(label: Any, label_ids: Mapping[str, int]) -> Any:
    if isinstance(label, str):
        if label not in label_ids:
            known = ", ".join(label_ids) or "none by name: pass numbers"
            raise OptionError("evaluate", f"label {label!r} is unknown", f"the model's labels are {known}")
        return label_ids[label]
    if isinstance(label, list | tuple):
        return [_label(item, label_ids) for item in label]
    array = np.asarray(label)
    return array.tolist() if array.ndim else array.item()


def _paired(values: NDArray, labels: NDArray, mask: NDArray | None, *, ranked: bool) -> tuple[NDArray, NDArray]:
    """Return predictions and labels, one to one, without ignored positions.

    Args:
        values: each row's prediction is its arg-max, or if they are not `ranked`, its only value.
        mask: of the tokens, where the model has one.
    """
    if not ranked and values.size != len(values):
        why = f"it goes by one number for each row, and the model gives {values.size // max(1, len(values))}"
        raise OptionError("evaluate", why, "pass ('accuracy', rows) for classes, or a function as evaluate=")
    guessed: NDArray = values.argmax(axis=-1) if ranked else values.reshape(-1)
    if labels.ndim == guessed.ndim - 1 and len(guessed) == 1:
        labels = np.asarray([labels])  # labels of one row, without a batch axis
    if guessed.ndim == 2 and labels.ndim == 2:
        if mask is not None and mask.ndim == 2:
            _require_aligned(labels, mask)
        labels = labels[:, : guessed.shape[1]]
        guessed = guessed[:, : labels.shape[1]]
        counts = labels != _IGNORED
        guessed, labels = guessed[counts], labels[counts]
    if ranked:
        _require_classes(labels, values.shape[-1])
    if guessed.shape != labels.shape:
        why = f"labels have shape {labels.shape}, the model's predictions {guessed.shape}"
        raise OptionError("evaluate", why, "pass one label for each prediction, or a function as evaluate=")
    return guessed, labels


def _require_aligned(labels: NDArray, mask: NDArray) -> None:
    """Refuse labels of other pieces than tokens, such as words: each would meet another token's prediction."""
    tokens, count = int(mask.sum(axis=1).max()), labels.shape[1]
    if count < tokens or (labels[:, mask.shape[1] :] != _IGNORED).any():
        why = f"rows have up to {count} labels and up to {tokens} tokens"
        remedy = f"pass one label for each token, {_IGNORED} where none counts, as at special tokens"
        raise OptionError("evaluate", why, remedy)


def _require_classes(labels: NDArray, classes: int) -> None:
    """Refuse labels that no prediction can equal: an eager model with no correct prediction could not get worse."""
    wrong = labels[~np.isin(labels, np.arange(classes))]
    if wrong.size:
        why = f"label {wrong.flat[0]} is none that the model can give, which are 0 to {classes - 1}"
        raise OptionError("evaluate", why, "number the labels as the model does, or pass a function as evaluate=")


def _scikit(name: str, **settings: Any) -> Callable[[Any, Any], float]:
    def score(labels: Any, guessed: Any) -> float:
        try:
            from sklearn import metrics
        except ImportError as error:
            who = f"evaluate ({name})"
            raise UnavailableError(who, "scikit-learn is not installed", "pip install scikit-learn") from error
        return float(getattr(metrics, name)(labels, guessed, **settings))

    return score


def _ranks(values: NDArray) -> NDArray:
    """Return ranks from 0, ties sharing their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(counts) - (counts + 1) / 2)[places]).astype(float)


def _correlation(one: NDArray, other: NDArray) -> float:
    """Return Pearson's correlation; NaN if one of the arrays is constant."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(one, other)[0, 1])


_METRICS: Mapping[str, Callable[[Any, Any], float]] = {
    "accuracy": lambda labels, guessed: float(np.mean(labels == guessed)),
    "f1": _scikit("f1_score", average="macro"),
    "matthews": _scikit("matthews_corrcoef"),
    "pearson": _correlation,
    "spearman": lambda labels, guessed: _correlation(_ranks(labels), _ranks(guessed)),
}
assert tuple(_METRICS) == METRICS


def _number(value: Any, who: str) -> float:
    try:
        if isinstance(value, str):
            raise TypeError("a text is not read as a number")
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch raises the third, for several numbers
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        one = f", such as its {next(iter(value))!r}" if isinstance(value, Mapping) and value else ""
        why = f"it gave a {type(value).__name__}{shape}, no number"
        raise EvaluationError(who, why, f"return one number{one}, more of which is better") from error
    if not math.isfinite(number):
        raise EvaluationError(who, f"it gave {number}", "return a finite number, more of which is better")
    return number + 0.0  # no -0.0, which reads oddly


def make_promise(metric: Metric, eager: Evaluated, drop: Drop, *, patience: float = math.inf) -> Promise:
    """Evaluate the metric on the eager model, and return the promise with that baseline and the allowed loss.

    A function is called twice: if its values for one model differ, the better one is the baseline.

    Args:
        patience: most seconds that the first call may take for a second one to follow.

    Raises:
        EvaluationError: the metric gives no number for the eager model, or two that differ by more than the drop.
        OptionError: the drop allows everything.
    """
    start = time.perf_counter()
    baseline, noise = metric.value(eager), None
    if isinstance(metric, Called) and time.perf_counter() - start <= patience:
        again = metric.value(eager)
        _require_steady(metric, (baseline, again), drop)
        worse, baseline = sorted((baseline, again), reverse=metric.rises)
        noise = abs(baseline - worse)
    _require_bound(metric, baseline, drop)
    return Promise(
        metric=metric.name,
        baseline=baseline,
        max_drop=str(drop),
        limit=drop.limit(baseline),
        data=metric.data,
        rises=metric.rises,
        noise=noise,
    )


def _require_steady(metric: Metric, values: tuple[float, float], drop: Drop) -> None:
    """Refuse a metric by which a loss of the allowed size cannot be told from chance."""
    one, other = values
    if abs(one - other) > abs(drop.limit(max(values))) + _ROUNDING * max(1.0, abs(one)):
        why = f"it gave {one:.6g} and then {other:.6g} for the same model, so that a drop of {drop} may be chance"
        remedy = "make it give the same number each time (fixed rows, a fixed seed), or allow more by max_drop="
        raise EvaluationError(f"evaluate ({metric.name})", why, remedy)


def _require_bound(metric: Metric, baseline: float, drop: Drop) -> None:
    """Refuse a drop that allows all values from the eager model's down to zero, such as 5 where 5 % is meant."""
    if metric.rises or not 0 < baseline <= drop.limit(baseline) or not (drop.relative or drop.amount >= 1):
        return
    why = f"a drop of {drop} allows everything: eager has {metric.name} {baseline:.4g}"
    raise OptionError("max_drop", why, "say '1%' of what eager has, or less in the metric's own units")


def promise_notes(promise: Promise | None, *, by_function: bool) -> Iterator[str]:
    """Yield what a report says of a promise that means less than it seems.

    Args:
        by_function: the metric is a user's function, which may vary.
    """
    if promise is None:
        return
    if promise.noise:
        yield f"{promise.metric} of one and the same model differed by {promise.noise:.3g}: a loss up to that is chance"
    elif promise.noise is None and by_function:
        yield f"{promise.metric} was computed once for eager, since it takes long: how much it varies is not known"
    if not promise.rises and 0 <= promise.baseline <= promise.limit:
        has = f"eager has {promise.metric} {promise.baseline:.4g}"
        yield f"{has}, so that a drop of {promise.max_drop} allows everything: do the rows fit the model?"


def keeps(promise: Promise, value: float) -> bool:
    """Whether a value of the metric is within the allowed loss, floating-point error aside."""
    return promise.loss(value) <= promise.limit + _ROUNDING * max(1.0, abs(promise.baseline))


def evaluate_words(evaluate: Any) -> Sequence[Any] | None:
    """Return (metric, rows) from the `evaluate` argument; None if it is a function."""
    if callable(evaluate):
        return None
    if isinstance(evaluate, tuple | list) and len(evaluate) == 2 and _is_metric(evaluate[0]):
        return evaluate
    if isinstance(evaluate, str) or (isinstance(evaluate, tuple) and evaluate and isinstance(evaluate[0], str)):
        remedy = f"pass a function, or (metric, rows) with one of {', '.join((*METRICS, *TEXT_METRICS))}"
        name = evaluate if isinstance(evaluate, str) else evaluate[0]
        lacking = "texts" if name in TEXT_METRICS else "labelled data"
        why = f"has no {lacking} beside it" if _is_metric(name) else "is no metric"
        raise OptionError("evaluate", f"{name[:60]!r} {why}", remedy)
    return ("", evaluate)


def _is_metric(name: Any) -> bool:
    return isinstance(name, str) and name in (*METRICS, *TEXT_METRICS)
