"""Calibration and evaluation data for quantization, from the user's rows: never the same rows for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import OptionError
from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.models.data.batches import Batches, Encoder
from optimum_core.models.data.rows import Row, Rows
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import Event, QuantizeConfig
from optimum_core.types.quantization import TEXT_METRICS, Drop, parse_drop
from optimum_core.verify.comparison import ReferenceCase
from optimum_core.verify.perplexity import Perplexity
from optimum_core.verify.promise import (
    DEFAULT_DROP,
    DEFAULT_RISE,
    UP_TO_ONE,
    Called,
    Labelled,
    Metric,
    evaluate_words,
)

#: Most rows to find ranges on: more hardly change them.
CALIBRATION_ROWS = 300
#: Most rows kept from calibration for the comparison with the eager model; and their share of the rows.
UNSEEN_ROWS = 100
SHARE = 4
#: Least rows for calibration: fewer say nothing about ranges.
LEAST_ROWS = 8
#: Most bytes of reference outputs that are kept.
_MOST_BYTES = 256 * 2**20
#: Items between two progress events.
_TOLD = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class StatedData:
    """The user's arguments, checked as far as possible without the model.

    Attributes:
        function: `evaluate`, if it is a function; otherwise `metric` is computed on `labelled`, if these were passed:
            rows with labels, or for perplexity texts without.
        drop: the allowed loss; None: none was stated.
    """

    calibration: Rows | None = None
    function: Callable[[Any], Any] | None = None
    metric: str | None = None
    labelled: Rows | None = None
    drop: Drop | None = None

    @property
    def can_calibrate(self) -> bool:
        """Whether there are rows to calibrate on."""
        return self.calibration is not None or self.labelled is not None

    def question(self) -> dict[str, Any]:
        """Return everything that affects the result, as JSON values. A function enters by its name and code."""
        function = self.function
        return {
            "calibration": self.calibration.fingerprint if self.calibration else None,
            "labelled": self.labelled.fingerprint if self.labelled else None,
            "metric": self.metric,
            "function": _named(function) if function else None,
            "drop": [self.drop.amount, self.drop.relative] if self.drop else None,
        }


def _named(function: Callable[[Any], Any]) -> list[str]:
    """Return a function's name and its code, as far as that is available; not the data that it reads."""
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    code = getattr(function, "__code__", None)
    if code is None:
        return [name]
    plain = [repr(item) for item in code.co_consts if isinstance(item, str | int | float | tuple | None)]
    return [name, code.co_code.hex(), *code.co_names, *plain]


def read_data(calibration: Any, evaluate: Any, max_drop: Any, config: QuantizeConfig | None) -> StatedData:
    """Read the user's arguments, completed by those of the recipe.

    Raises:
        OptionError: an argument has an unusable type or value.
    """
    stated = max_drop if max_drop is not None else (config.max_drop if config else None)
    drop = parse_drop(stated) if stated is not None else None
    metric = config.metric if config else None
    rows = None if calibration is None else Rows(calibration, who="calibration", limit=CALIBRATION_ROWS + UNSEEN_ROWS)
    if evaluate is None:
        if metric is not None:
            raise OptionError("evaluate", f"the recipe's metric {metric!r} needs labelled data", "pass evaluate=rows")
        if config and config.accuracy_control:
            why = "accuracy control goes by a metric, and nothing was passed to evaluate on"
            raise OptionError("evaluate", why, "pass evaluate=, or leave accuracy_control out")
        if drop is not None and drop.limit(1.0) < 0:
            why = (
                f"a drop below zero ({drop}) asks for a gain, and without evaluate nothing is better than eager itself"
            )
            raise OptionError("max_drop", why, "pass 0 or more, such as 0.01 or '1%'")
        if drop is not None and drop.limit(1.0) >= 1:
            why = f"without evaluate it is of the share of equal decisions, 0 to 1, and {drop} allows everything"
            raise OptionError("max_drop", why, "pass evaluate=, a metric or labelled rows; or say 0.01 or '1%'")
        return StatedData(calibration=rows, drop=drop)
    words = evaluate_words(evaluate)
    if words is None:
        return StatedData(calibration=rows, function=evaluate, drop=drop or Drop(amount=DEFAULT_DROP))
    name = words[0] or metric or "accuracy"
    if name in TEXT_METRICS:
        texts = Rows(words[1], who="evaluate")
        return StatedData(calibration=rows, metric=name, labelled=texts, drop=drop or parse_drop(DEFAULT_RISE))
    drop = drop or Drop(amount=DEFAULT_DROP)
    if name in UP_TO_ONE and drop.relative and drop.limit(1.0) >= 1:
        raise OptionError("max_drop", f"a drop of {drop} allows everything", "say '1%' of what eager has")
    if name in UP_TO_ONE and not drop.relative and drop.amount >= 1:
        why = f"a drop of {drop.amount:.4g} allows everything: {name} goes from 0 to 1"
        raise OptionError("max_drop", why, f"say {drop.amount / 100:.4g}, or '{drop.amount:.4g}%' of what eager has")
    return StatedData(calibration=rows, metric=name, labelled=Rows(words[1], who="evaluate", labelled=True), drop=drop)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationData:
    """Data encoded as the model's inputs.

    Attributes:
        calibration: batches to find ranges on; None: there is no data for that.
        unseen: inputs that calibration did not see, with the eager model's outputs.
        metric: the metric that decides; None: the nearness of the outputs to the eager model's decides.
    """

    calibration: Batches | None = None
    unseen: tuple[ReferenceCase, ...] = ()
    metric: Metric | None = None


def _longest(batches: Batches) -> list[Mapping[str, Any]]:
    """Return for each input the batch in which it is longest, by the lengths of all axes but the batch axis."""
    found: dict[str, Mapping[str, Any]] = {}
    for inputs in batches:
        for name, array in inputs.items():
            if name not in found or array.shape[1:] > found[name][name].shape[1:]:
                found[name] = inputs
    return list({id(inputs): inputs for inputs in found.values()}.values())


@dataclass(kw_only=True, slots=True)
class DataPreparer:
    """Encoder and splitter of the stated data for one model.

    Attributes:
        workshop: the directory for batches.
        calibrates: some recipe needs calibration; otherwise labelled rows are for evaluation alone.
    """

    stated: StatedData
    module: Any
    signature: ModelSignature
    processor: Any
    workshop: Path
    emit: Emit
    calibrates: bool = True

    def prepare(self) -> QuantizationData:
        """Encode the data, split it, and compute reference outputs for the rows that calibration does not see.

        Raises:
            OptionError: rows do not fit the model, or are too few.
        """
        stated = self.stated
        metric: Metric | None = None
        if stated.calibration is not None:
            fitted, held = self._split(self._pieces(stated.calibration, self._tested()), stated)
        elif stated.labelled is not None:
            fitted, held = self._share(self._pieces(stated.labelled)) if self.calibrates else [], []
        else:
            fitted, held = [], []
        calibration = self._spool("calibration", fitted, "calibration") if fitted or stated.calibration else None
        if calibration is not None:
            self._require_enough(calibration)
        unseen = self._spool("unseen", held, "calibration") if held else None
        if stated.labelled is not None:
            used = self._keys(fitted, "calibration")
            rest = self._pieces(stated.labelled, used, repeated=True)
            labelled = self._spool("evaluate", rest, "evaluate")
            unseen = unseen or labelled
            metric = self._measured(labelled)
        elif stated.function is not None:
            metric = Called(function=stated.function)
        who = "evaluate" if stated.labelled is not None and not held else "calibration"
        references = tuple(self._reference(unseen, who)) if unseen else ()
        return QuantizationData(calibration=calibration, unseen=references, metric=metric)

    def _tested(self) -> set[str]:
        """Return the keys of the rows for evaluation."""
        return self._keys(self.stated.labelled or (), "evaluate")

    def _keys(self, rows: Iterable[Row], who: str) -> set[str]:
        encoder = self._encoder(who)
        return {key for row in rows for key in encoder.keys(row)}

    def _pieces(self, rows: Rows, but: Iterable[str] = (), *, repeated: bool = False) -> Iterator[Row]:
        """Yield the rows, large batches cut into small ones: each item once, unless it may be `repeated`.

        Args:
            but: keys of items to leave out.
        """
        encoder, seen = self._encoder(rows.who), set(but)
        for row in rows:
            for piece in encoder.pieces(row):
                keys = encoder.keys(piece)
                if seen.isdisjoint(keys):
                    yield piece
                    seen |= set() if repeated else keys

    @staticmethod
    def _split(rows: Iterable[Row], stated: StatedData) -> tuple[list[Row], list[Row]]:
        """Return rows to calibrate on, and rows kept for comparison: none of the latter if there are labelled rows."""
        fitted: list[Row] = []
        held: list[Row] = []
        for number, row in enumerate(rows):
            if number % SHARE == SHARE - 1 and stated.labelled is None:
                held += [row] if len(held) < UNSEEN_ROWS else []
            else:
                fitted.append(row)
            if len(fitted) >= CALIBRATION_ROWS:
                break
        return fitted, held

    def _share(self, rows: Iterable[Row]) -> list[Row]:
        """Return one of `SHARE` labelled rows for calibration; none if those are too few, so that all are for
        evaluation."""
        fitted = list(islice(rows, SHARE - 1, SHARE * CALIBRATION_ROWS, SHARE))
        return fitted if len(self._keys(fitted, "evaluate")) >= LEAST_ROWS else []

    def _encoder(self, who: str) -> Encoder:
        return Encoder(signature=self.signature, processor=self.processor, who=who)

    def _spool(self, name: str, rows: Iterable[Row], who: str) -> Batches:
        def advance(done: int) -> None:
            if done % _TOLD == 0:
                self.emit(Event(stage="calibrate", detail=f"{done} items of {name} data"))

        with watched(self.emit, "calibrate", f"reading {name} data"):
            batches = self._encoder(who).spool(rows, self.workshop / name, advance)
        if not len(batches):
            why = "there are no rows left to use: what repeats, and what is evaluated on, is left out"
            raise OptionError(who, why, "pass more rows, and others to evaluate on")
        return batches

    def _require_enough(self, calibration: Batches) -> None:
        if calibration.items < LEAST_ROWS:
            raise OptionError(
                "calibration",
                f"{calibration.items} rows remain to calibrate on, and ranges need {LEAST_ROWS} at least "
                f"(rows that repeat, that are evaluated on, and one of {SHARE} to check with are left out)",
                "pass more rows, a few hundred typical ones; or use a scheme that needs none, such as 'dynamic-int8'",
            )
        for inputs in _longest(calibration):
            self._ask(inputs, "calibration")

    def _reference(self, batches: Batches, who: str) -> Iterator[ReferenceCase]:
        """Yield batches with the eager model's outputs, as many as may be kept."""
        kept = items = 0
        for number, (inputs, size) in enumerate(self._compared(batches)):
            outputs = self._ask(inputs, who)
            kept += sum(array.nbytes for array in outputs.values())
            items += size
            name, written = f"unseen data, batch {number + 1}", frozenset[str](getattr(outputs, "written", ()))
            yield ReferenceCase(name=name, inputs=inputs, outputs=outputs, varied=frozenset(), written=written)
            if kept > _MOST_BYTES or items >= UNSEEN_ROWS:
                return

    def _compared(self, batches: Batches) -> Iterator[tuple[Mapping[str, Any], int]]:
        """Yield the batches with their sizes; for a decoder, whose logits are large, every row alone, cut to what is
        kept at most."""
        decoder = self.signature.decoder
        if decoder is None:
            yield from zip(batches, batches.sizes, strict=True)
            return
        longest = max(1, _MOST_BYTES // (4 * int(decoder.outputs[0].shape[-1])))
        for inputs in batches:
            mask = inputs.get("attention_mask", np.ones_like(inputs["input_ids"]))
            for ids, kept in zip(inputs["input_ids"], mask, strict=True):
                row = ids[kept == 1][None, :longest]
                yield {"input_ids": row, "attention_mask": np.ones_like(row)}, 1

    def _ask(self, inputs: Mapping[str, Any], who: str) -> dict[str, Any]:
        try:
            return eager_outputs(self.module, inputs)
        except Exception as error:  # models raise errors of any type
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            why = f"the model does not run on a batch of it ({shapes}): {type(error).__name__}: {error}"
            raise OptionError(who, why, "pass what the model is called with") from error

    def _measured(self, batches: Batches) -> Metric:
        if self.stated.metric not in TEXT_METRICS:
            return self._labelled(batches)
        if not getattr(self.module, "can_generate", bool)():
            why = f"{self.stated.metric} is of the next token, and the model does not generate"
            raise OptionError("evaluate", why, "pass ('accuracy', rows), or a function of the accelerated model")
        vocabulary = next(spec.shape[-1] for spec in self.signature.outputs if spec.name == "logits")
        return Perplexity(batches=batches, vocabulary=int(vocabulary))

    def _labelled(self, batches: Batches) -> Labelled:
        names = [spec.name for spec in self.signature.outputs]
        output = "logits" if "logits" in names else names[0]
        ids = getattr(getattr(self.module, "config", None), "label2id", None) or {}
        return Labelled(
            metric=str(self.stated.metric),
            batches=batches,
            output=output,
            label_ids={str(k): v for k, v in ids.items()},
        )
