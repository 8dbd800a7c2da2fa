"""Rows become a model's inputs: texts padded, tensors as they are, what does not fit named by its row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from optimum_core.errors import OptionError
from optimum_core.models.data.batches import BATCH, Batches, Encoder
from optimum_core.models.data.rows import Row, Rows

Described = Callable[[str], tuple[Any, Any]]


class Words:
    """A tokenizer as far as it is asked: one id a word, pairs joined by id 1; its calls are kept."""

    model_input_names = ("input_ids", "attention_mask", "token_type_ids")
    pad_token = "[PAD]"
    model_max_length = 20

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, *, text: list[str], text_pair: list[str] | None = None, **settings: Any) -> dict[str, Any]:
        self.calls.append({"text": text, "text_pair": text_pair, **settings})
        rows = [self._ids(line) for line in text]
        if text_pair is not None:
            rows = [[*row, 1, *self._ids(line)] for row, line in zip(rows, text_pair, strict=True)]
        rows = [row[: settings["max_length"]] for row in rows]
        longest = max(map(len, rows))
        ids = np.array([row + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}

    def _ids(self, line: str) -> list[int]:
        return [10 + int(word) for word in line.split()]


def _encoder(described: Described, kind: str = "bert", processor: Any = None) -> Encoder:
    return Encoder(signature=described(kind)[1], processor=processor, who="calibration")


def _spool(encoder: Encoder, data: Any, place: Path, **settings: Any) -> Batches:
    return encoder.spool(Rows(data, who="calibration"), place / "kept", **settings)


def test_texts_are_sorted_by_length_and_padded_together(described: Described, tmp_path: Path) -> None:
    lengths = [(i * 7) % 19 + 1 for i in range(20)]
    data = [(" ".join(["3"] * length), length) for length in lengths]
    done: list[int] = []
    batches = _spool(_encoder(described, processor=Words()), data, tmp_path, advance=done.append)
    assert (batches.sizes, batches.items, done) == ((8, 8, 4), 20, [8, 16, 20])
    seen = []
    for inputs, labels in zip(batches, batches.labels, strict=True):
        assert inputs["input_ids"].dtype == np.int64
        assert inputs["attention_mask"].sum(axis=1).tolist() == labels  # each label stayed with its text
        assert inputs["input_ids"].shape[1] == max(labels)  # and padding is no longer than the batch needs
        seen += labels
    assert seen == sorted(lengths)


@pytest.mark.parametrize(
    ("stated", "limit", "cut"),
    [
        (20, 64, 20),
        (64, 64, 64),  # all that the model has, as the tokenizer's own call would give
        (1000, 64, 62),  # some models count positions from the padding
        (int(1e30), 64, 62),
        (700, None, 700),
        (700, 1000, 700),
        (int(1e30), 1000, 998),
        (int(1e30), None, 512),
    ],
)
def test_texts_are_cut_where_the_tokenizer_says_if_the_model_takes_so_many(
    stated: int, limit: int | None, cut: int, described: Described, tmp_path: Path
) -> None:
    words = Words()
    words.model_max_length = stated
    encoder = _encoder(described, processor=words)
    limits = {} if limit is None else {"sequence": limit}
    layout = replace(encoder.signature.layout, limits=limits)
    encoder = replace(encoder, signature=replace(encoder.signature, layout=layout))
    (inputs,) = encoder.spool(Rows([" ".join(["3"] * 1200)], who="calibration"), tmp_path / "spooled")
    assert inputs["input_ids"].shape == (1, cut)
    assert words.calls[0]["truncation"] and words.calls[0]["max_length"] == cut


@pytest.mark.parametrize("row", [("3 4", "5"), {"question": "3 4", "context": "5"}])
def test_pairs_of_texts(row: Any, described: Described, tmp_path: Path) -> None:
    (inputs,) = _spool(_encoder(described, processor=Words()), [row], tmp_path)
    assert inputs["input_ids"].tolist() == [[13, 14, 1, 15]]


def test_the_text_is_found_among_columns(described: Described, tmp_path: Path) -> None:
    (inputs,) = _spool(_encoder(described, processor=Words()), [{"id": 5, "sentence": "3 4"}], tmp_path)
    assert inputs["input_ids"].tolist() == [[13, 14]]


def test_pictures_go_through_their_processor(described: Described, tmp_path: Path) -> None:
    encoder = _encoder(described, "vit", ViTImageProcessor(size={"height": 32, "width": 32}))
    data = [{"image": Image.new("RGB", (40, 50), (i, 0, 0)), "label": i} for i in range(3)]
    batches = _spool(encoder, data, tmp_path)
    (inputs,) = batches
    assert inputs["pixel_values"].shape == (3, 3, 32, 32)
    assert batches.labels == ([0, 1, 2],)


@pytest.mark.parametrize("make", [np.array, torch.tensor, list])
def test_tensors_with_and_without_a_batch_axis(make: Any, described: Described, tmp_path: Path) -> None:
    data = [{"input_ids": make([3, 4, 5]), "extra": "x"}, {"input_ids": make([[3, 4], [5, 6]])}]
    batches = _spool(_encoder(described), data, tmp_path)
    assert batches.sizes == (1, 2)
    first, second = batches
    assert first["input_ids"].tolist() == [[3, 4, 5]]
    assert second["input_ids"].tolist() == [[3, 4], [5, 6]]
    # What was proved to be the model's own default is filled, and nothing else comes along.
    assert first["attention_mask"].tolist() == [[1, 1, 1]]
    assert first["token_type_ids"].tolist() == [[0, 0, 0]]
    assert set(first) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_bare_tensor_is_the_first_input(described: Described, tmp_path: Path) -> None:
    batches = _spool(_encoder(described), [torch.tensor([3, 4]), torch.tensor([[5, 6, 7]])], tmp_path)
    assert [inputs["input_ids"].tolist() for inputs in batches] == [[[3, 4]], [[5, 6, 7]]]


@pytest.mark.parametrize(
    ("kind", "row", "said"),
    [
        ("bert", {"input_ids": [1.5, 2.5]}, "'input_ids' is float64, the model takes int64"),
        ("bert", {"input_ids": [3, 500]}, "'input_ids' has the value 500, the model takes 0 to 119"),
        ("bert", {"input_ids": [3, -100]}, "'input_ids' has the value -100, the model takes 0 to 119"),
        ("bert", {"input_ids": 3}, "'input_ids' has 0 axes, the model takes 2"),
        ("bert", {"input_ids": [[[1]]]}, "'input_ids' has 3 axes, the model takes 2"),
        ("bert", {"input_ids": "words"}, "'input_ids' is a str"),
        ("bert", {"attention_mask": [1, 1]}, "'input_ids' is missing; it has attention_mask"),
        ("bert", "raw text", "no processor here"),
        ("bert", {"text": "raw text"}, r"none of its columns \('text'\) is an input(.|\n)*its inputs: input_ids"),
        ("bert", {"ids": torch.ones(1, 4, dtype=torch.int64)}, r"none of its columns \('ids'\) is an input"),
        ("vit", {"pixel_values": np.zeros((3, 32, 31), np.float32)}, "length 31 at axis 3, the model takes 32"),
        ("vit", {"pixel_values": np.zeros((1, 4, 32, 32), np.float32)}, "length 4 at axis 1, the model takes 3"),
    ],
)
def test_what_does_not_fit_is_named_by_its_row(
    kind: str, row: Any, said: str, described: Described, tmp_path: Path
) -> None:
    good: Any = {"input_ids": [3, 4]} if kind == "bert" else {"pixel_values": np.zeros((3, 32, 32), np.float32)}
    with pytest.raises(OptionError, match=rf"calibration, row 2: (.|\n)*{said}"):
        _spool(_encoder(described, kind), [good, row], tmp_path)


@pytest.mark.parametrize("row", [{"a": "3", "b": "4", "c": "5"}, {"number": 3}, {}])
def test_columns_that_say_nothing_are_listed(row: Any, described: Described, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"row 2: none of its columns(.|\n)*input_ids"):
        _spool(_encoder(described, processor=Words()), ["3", row], tmp_path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("3", "4"), "5"], "row 2: it is a str, and other rows are pairs of texts"),
        (["3 4 5", ("4", "5")], "row 1: it is a str, and other rows are pairs of texts"),
        ([("3", "4", "5")], "row 1: it is a tuple of 3, and other rows are pairs of texts"),
        ([("3", None)], "row 1: it is a tuple of 2, and other rows are pairs of texts"),
    ],
)
def test_rows_of_two_forms_are_named(rows: Any, said: str, described: Described, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said):
        _spool(_encoder(described, processor=Words()), rows, tmp_path)


def test_a_processor_that_refuses_is_quoted(described: Described, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"row 1: the processor Words refuses it: ValueError: invalid literal"):
        _spool(_encoder(described, processor=Words()), ["no numbers"], tmp_path)


def test_batches_lie_on_disk_and_are_the_same_each_time(described: Described, tmp_path: Path) -> None:
    data = [{"input_ids": [i + 1] * (i % 5 + 1)} for i in range(30)]
    batches = _spool(_encoder(described), (row for row in data), tmp_path)
    assert len(batches) == batches.items == len(list((tmp_path / "kept").iterdir())) == 30
    once, again = list(batches), list(batches)
    for row, one, other in zip(data, once, again, strict=True):
        assert one["input_ids"].tolist() == other["input_ids"].tolist() == [row["input_ids"]]


def test_a_large_batch_is_cut_with_its_labels(described: Described) -> None:
    encoder = _encoder(described)
    ids = np.arange(2 * BATCH + 3)[:, None].repeat(4, axis=1)
    pieces = list(encoder.pieces(Row(number=5, value={"input_ids": ids}, label=torch.arange(len(ids)))))
    assert [len(piece.value["input_ids"]) for piece in pieces] == [BATCH, BATCH, 3]
    assert np.concatenate([piece.value["input_ids"] for piece in pieces]).tolist() == ids.tolist()
    assert torch.cat([piece.label for piece in pieces]).tolist() == list(range(len(ids)))
    assert {piece.number for piece in pieces} == {5}
    small = Row(number=1, value={"input_ids": ids[:BATCH]})
    assert list(encoder.pieces(small)) == [small]
    assert list(encoder.pieces(Row(number=1, value="text"))) == [Row(number=1, value="text")]
