"""Texts through `map` and `tokenize`, by transformers or the tokenizers library."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapped_models import TEXTS, one_by_one
from optimum_core import AcceleratedModel, load
from optimum_core.errors import InputError, UnavailableError, UnprovedWarning
from optimum_core.models.data.plain_reading import reads_alike
from optimum_core.models.data.texts import read_texts
from optimum_core.runtime.items import ItemEncoder
from optimum_core.types import AxisRange, Cut

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[[str], AcceleratedModel]


def test_texts_by_the_models_own_tokenizer(fast: AcceleratedModel, tokenizer_file: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_file)
    items = [dict(tokenizer(text, truncation=True)) for text in TEXTS]
    assert len({len(item["input_ids"]) for item in items}) > 5
    want = np.stack(one_by_one(fast, items))
    np.testing.assert_allclose(fast.map(TEXTS, batch_size=5).logits, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fast.map(iter(TEXTS), tokenizer=tokenizer).logits, want, rtol=1e-3, atol=1e-4)


def _without_transformers(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    gone = ("transformers", *more)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else find_spec(name))


@pytest.mark.parametrize("limit", [16, 6, 10**30, None])
def test_the_tokenizers_library_cuts_and_pads_as_transformers_does(
    limit: int | None, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_file / "tokenizer.json").read_bytes())
    stated = json.loads((tokenizer_file / "tokenizer_config.json").read_text())
    stated["model_max_length"] = limit
    if limit is None:
        del stated["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    through_transformers = [list(item["input_ids"]) for item in read_texts(tmp_path, "m").encode(TEXTS)]
    _without_transformers(monkeypatch)
    by_itself = [list(item["input_ids"]) for item in read_texts(tmp_path, "m").encode(TEXTS)]
    assert by_itself == through_transformers
    assert max(map(len, by_itself)) == min(limit or 99, max(len(text.split()) + 2 for text in TEXTS))


def test_a_tokenizer_that_transformers_builds_anew_is_told_from_one_that_it_reads(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"input_ids", "attention_mask"}
    assert reads_alike(tokenizer_file, taken) is True
    assert reads_alike(tmp_path, taken) is None
    stated = json.loads((tokenizer_file / "tokenizer.json").read_text())
    stated["added_tokens"] = []  # transformers adds them again, as tokenizer_config.json names them
    (tmp_path / "tokenizer.json").write_text(json.dumps(stated))
    (tmp_path / "tokenizer_config.json").write_bytes((tokenizer_file / "tokenizer_config.json").read_bytes())
    assert reads_alike(tmp_path, taken) is False
    kinds = [type(read_texts(tmp_path, "m", alike=alike)).__name__ for alike in (True, False, None)]
    assert kinds == ["PlainReader", "TransformersReader", "TransformersReader"]
    _without_transformers(monkeypatch)
    with pytest.warns(UnprovedWarning, match="pip install transformers"):
        read_texts(tmp_path, "m", alike=False)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_texts_without_transformers(kind: str, fast_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast_of(kind)
    want = model.map(TEXTS, batch_size=5).logits
    _without_transformers(monkeypatch)
    got = model.map(TEXTS, batch_size=5).logits
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_what_reads_the_tokenizer_is_named_where_it_is_missing(
    fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_transformers(monkeypatch, "tokenizers")
    with pytest.raises(UnavailableError, match="pip install tokenizers"):
        fast.map(TEXTS)


@pytest.mark.parametrize("plain", [False, True])
def test_tokens_are_inputs_of_map(plain: bool, fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else True)
        fast.__dict__.pop("_own_texts", None)
    items = fast.tokenize(TEXTS)
    np.testing.assert_allclose(fast.map(items).logits, fast.map(TEXTS).logits, rtol=1e-3, atol=1e-4)
    assert [list(item["input_ids"]) for item in fast.prepare(TEXTS)] == [list(item["input_ids"]) for item in items]
    (whole,) = fast.tokenize(["w5 " * 80], truncation=False)
    assert len(whole["input_ids"]) == 82 and fast.plain_tokenizer.encode("w5 " * 80).ids == list(whole["input_ids"])
    assert [len(item["input_ids"]) for item in fast.tokenize(["w5 " * 80])] == [16]
    words = [f"w{number % 50 + 5}" for number in range(60)]
    sides: tuple[Cut, ...] = ("left", "right")
    for side in sides:
        cut, pair = fast.tokenize([" ".join(words), ("w5", " ".join(words))], truncation=side)
        kept, behind = (words[-14:], words[-15:]) if side == "left" else (words[:14], words[:15])
        assert list(cut["input_ids"]) == list(fast.tokenize([" ".join(kept)])[0]["input_ids"])
        assert list(pair["input_ids"]) == list(fast.tokenize([("w5", " ".join(behind))])[0]["input_ids"])
    assert list(fast.tokenize(["w5"], prompt="w6 ")[0]["input_ids"]) == list(fast.tokenize(["w6 w5"])[0]["input_ids"])
    fast.__dict__.pop("_own_texts", None)


def test_threads_that_cut_and_threads_that_do_not_leave_each_other_alone(fast: AcceleratedModel) -> None:
    wrong: list[tuple[Cut, object]] = []
    text = "w5 " + "w6 " * 298 + "w7"
    cuts: tuple[Cut, ...] = (True, False, "left", "right")
    want = {cut: list(fast.tokenize([text], truncation=cut)[0]["input_ids"]) for cut in cuts}
    assert [len(want[cut]) for cut in cuts] == [16, 302, 16, 16] and want["left"] != want["right"] == want[True]

    def ask(cut: Cut) -> None:
        for _ in range(150):
            found = [list(item["input_ids"]) for item in fast.tokenize([text], truncation=cut)]
            wrong.extend((cut, ids) for ids in found if ids != want[cut])

    threads = [threading.Thread(target=ask, args=(cut,)) for cut in cuts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("one", "kind"),
    [("one text", "text"), ({"text": "it is"}, "dict"), ([{"role": "user", "content": "hi"}], "chat")],
)
def test_tokenize_takes_many_texts(one: Any, kind: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=rf"tokenize takes many items, and one {kind} came(.|\n)*fast.tokenize\(\["):
        fast.tokenize(one)
    assert fast.tokenize([]) == []


@pytest.mark.parametrize("transformers_too", [True, False])
@pytest.mark.parametrize(
    ("axis", "sentence", "longest"), [(None, None, 16), (9, None, 9), (9, 7, 7), (None, 12, 12), (40, 50, 40)]
)
def test_texts_are_cut_at_the_models_limit_and_the_stated_or_the_tokenizers(
    axis: int | None, sentence: int | None, longest: int, transformers_too: bool, fast: AcceleratedModel,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((fast.directory / name).read_bytes())
    if sentence is not None:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence}))
    if not transformers_too:
        _without_transformers(monkeypatch)
    axes = {} if axis is None else {"sequence": AxisRange(greatest=axis)}
    manifest = dataclasses.replace(fast.manifest, axes=axes, files={})  # of another directory
    text = " ".join(["w5"] * 60)
    (item,) = ItemEncoder("m", None, None, manifest, tmp_path)([text])
    assert len(item["input_ids"]) == longest


def test_saved_and_loaded_it_still_reads_texts(fast: AcceleratedModel, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        np.testing.assert_allclose(loaded.map(TEXTS).logits, fast.map(TEXTS).logits, rtol=1e-4, atol=1e-5)


def test_texts_and_pairs_in_one_call_are_what_each_is_alone(fast: AcceleratedModel, tokenizer_file: Path) -> None:
    """The first is a pair: a tokenizer would take the texts behind it for pairs of their first two characters."""
    from transformers import AutoTokenizer

    given = [("w4 w5 w6 w7", "w8"), "w9 w10", ["w11", "w12"], "w13"]
    for tokenizer in (None, AutoTokenizer.from_pretrained(tokenizer_file)):
        together = fast.tokenize(given, tokenizer=tokenizer)
        for item, text in zip(together, given, strict=True):
            assert dict(item) == dict(fast.tokenize([text], tokenizer=tokenizer)[0])
