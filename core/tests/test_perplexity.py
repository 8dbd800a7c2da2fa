"""The perplexity is that of transformers' own loss, whatever lies together in a batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import EvaluationError, OptionError
from optimum_core.models.data.batches import Batches
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.search.quantized.data import DataPreparer, read_data
from optimum_core.testing import decoders
from optimum_core.testing.decoders import VOCABULARY, decoder
from optimum_core.types import Promise
from optimum_core.verify import perplexity
from optimum_core.verify.perplexity import Perplexity
from optimum_core.verify.promise import keeps

LENGTHS = (12, 7, 2, 1)
TEXTS = [np.random.default_rng(n).integers(3, 99, (1, length)) for n, length in enumerate(LENGTHS)]


class Eager:
    """The eager model under evaluation; it counts the rows of its calls."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def run(self, inputs: Any) -> Any:
        self.rows.append(len(inputs["input_ids"]))
        return eager_outputs(decoder("llama"), dict(inputs))

    def model(self) -> Any:
        raise AssertionError("it is not needed")


def batch(folder: Path, *, left: bool, texts: list[Any] = TEXTS) -> Perplexity:
    longest = max(text.shape[1] for text in texts)
    ids = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(longest - text.shape[1], None) if left else slice(text.shape[1])
        ids[row, place], mask[row, place] = text[0], 1
    places = np.clip(mask.cumsum(1) - 1, 0, None)
    np.savez(folder / "0.npz", input_ids=ids, attention_mask=mask, position_ids=places)
    return Perplexity(batches=Batches(directory=folder, sizes=(len(texts),)), vocabulary=VOCABULARY)


@pytest.mark.parametrize("left", [False, True])
def test_it_is_transformers_loss(left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = 0.0
    for text in TEXTS[:3]:
        ids = torch.as_tensor(text)
        with torch.no_grad():
            total += float(decoder("llama")(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    expected = math.exp(total / sum(length - 1 for length in LENGTHS[:3]))
    metric, eager = batch(tmp_path, left=left), Eager()
    assert metric.value(eager) == pytest.approx(expected, rel=1e-4)
    monkeypatch.setattr(perplexity, "_MOST_SCORES", 2 * 12 * VOCABULARY)
    assert metric.value(eager) == pytest.approx(expected, rel=1e-4)
    assert eager.rows == [4, 2, 2]


def test_texts_of_one_token_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no text has two tokens"):
        batch(tmp_path, left=False, texts=TEXTS[3:]).value(Eager())


def test_a_rise_breaks_the_promise_and_a_drop_does_not() -> None:
    promise = Promise(metric="perplexity", baseline=20.0, max_drop="1 %", limit=0.2, data="texts", rises=True)
    assert [keeps(promise, value) for value in (15.0, 20.2, 20.3)] == [True, True, False]


def test_texts_are_read_without_labels_and_kept_from_calibration(tmp_path: Path) -> None:
    rows = [{"input_ids": np.random.default_rng(n).integers(3, 99, (1, 5 + n % 3))} for n in range(60)]
    stated = read_data(rows, ("perplexity", rows[:8]), None, None)
    assert str(stated.drop) == "1 %"
    data = DataPreparer(
        stated=stated, module=decoder("llama"), signature=decoders.described("llama"), processor=None,
        workshop=tmp_path, emit=lambda event: None,
    ).prepare()  # fmt: skip
    assert isinstance(data.metric, Perplexity) and data.metric.data == "8 texts"
    assert data.calibration is not None and data.calibration.items == 52
    assert [case.outputs["logits"].shape[:2] for case in data.unseen] == [(1, 5 + n % 3) for n in range(8)]


def test_a_model_that_does_not_generate_has_none(described: Any, tmp_path: Path) -> None:
    module, signature = described("bert")
    rows = [{"input_ids": np.full((1, 4), n)} for n in range(1, 9)]
    with pytest.raises(OptionError, match="perplexity is of the next token"):
        DataPreparer(
            stated=read_data(None, ("perplexity", rows), None, None), module=module, signature=signature,
            processor=None, workshop=tmp_path, emit=lambda event: None,
        ).prepare()  # fmt: skip
