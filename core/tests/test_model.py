"""The face of an accelerated model: what transformers and its users ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate, load, measure
from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.tune import race


@pytest.fixture(scope="module")
def fast(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcceleratedModel]:
    effort = measure.Effort(rounds=1, seconds=0.005)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "measure", lambda calls, shapes, _: measure.measure(calls, shapes, effort))
        cache = tmp_path_factory.mktemp("cache")
        yield accelerate(tiny("bert"), target="ort", level="all", shapes=({"batch": 1},), budget=0, cache_dir=cache)


def test_it_looks_like_the_original(fast: AcceleratedModel, tiny: Callable[[str], Any]) -> None:
    assert type(fast).__name__ == "BertForSequenceClassification"
    assert isinstance(fast, AcceleratedModel)
    assert fast.config.num_labels == 5
    assert fast.config.to_dict() == tiny("bert").config.to_dict()
    assert (fast.device, fast.dtype) == (torch.device("cpu"), torch.float32)
    assert (fast.main_input_name, fast.base_model_prefix, fast.task) == ("input_ids", "bert", "text-classification")
    assert fast.input_modalities == ("text",)
    assert fast.generation_config is None
    assert repr(fast) == "<accelerated BertForSequenceClassification: ort on cpu, fp32, verified>"


def test_modes_and_devices(fast: AcceleratedModel) -> None:
    assert fast.eval() is fast
    assert fast.train(False) is fast
    for stay in (("cpu",), (torch.device("cpu"),), (torch.float32,), ("cpu", torch.float32), (None,)):
        assert fast.to(*stay) is fast
    assert fast.to(device="cpu", non_blocking=True) is fast
    with pytest.raises(UnavailableError, match="train the eager model"):
        fast.train()


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", torch.device("meta"), torch.float16, torch.bfloat16])
def test_elsewhere_is_refused(wanted: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(UnavailableError, match=r"it runs on cpu in float32(.|\n)*accelerate\("):
        fast.to(wanted)


def test_generate_is_refused_clearly(fast: AcceleratedModel) -> None:
    assert not fast.can_generate()
    with pytest.raises(UnavailableError, match=r"one forward pass(.|\n)*eager model"):
        fast.generate(input_ids=torch.ones(1, 3, dtype=torch.int64))


def test_kinds_of_input(fast: AcceleratedModel) -> None:
    ids = [[5, 6, 7, 8], [9, 10, 11, 12]]
    want = fast(input_ids=np.array(ids)).logits
    assert isinstance(want, np.ndarray)
    for given in (ids, np.array(ids, np.int32), torch.tensor(ids), torch.tensor(ids, dtype=torch.int32)):
        got = fast(input_ids=given, return_dict=True, attention_mask=None).logits
        assert isinstance(got, torch.Tensor) == isinstance(given, torch.Tensor)
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5)
    strided = np.array([[5, 0, 6, 0, 7, 0, 8], [9, 0, 10, 0, 11, 0, 12]])[:, ::2]
    np.testing.assert_allclose(fast(strided).logits, want, rtol=1e-5)
    np.testing.assert_allclose(fast(input_ids=strided, attention_mask=np.ones((2, 4), bool)).logits, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "'input_ids' is missing"),
        ({"input_ids": np.ones((2, 3, 1), np.int64)}, "expected 2 axes, got 3"),
        ({"input_ids": np.ones((2, 3), np.float32)}, "expected dtype int64, got dtype float32"),
        ({"input_ids": np.array([[1, -100]])}, "ids of 0 and above, got -100"),
        (
            {"input_ids": np.array([[1, 2]]), "labels": np.array([1])},
            "'labels', argument 6 of its forward, was not exported",
        ),
        ({"input_ids": np.array([[1, 2]]), "label": np.array([1])}, "it has no input 'label'"),
        ({"input_ids": np.array([[1, 2]]), "output_hidden_states": True}, "not exported with"),
        ({"input_ids": [[1, 2], [3]]}, "is no tensor"),
        ({"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((1, 3), np.int64)}, "batch 2"),
    ],
)
def test_wrong_inputs(arguments: dict[str, Any], said: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=said) as raised:
        fast(**arguments)
    assert raised.value.remedy


def test_twice_and_too_many(fast: AcceleratedModel) -> None:
    ids = np.ones((1, 3), np.int64)
    with pytest.raises(InputError, match="came twice"):
        fast(ids, input_ids=ids)
    with pytest.raises(InputError, match="'position_ids', argument 4 of its forward, was not exported"):
        fast(ids, ids, ids, ids)
    with pytest.raises(InputError, match="it takes 6 inputs by position, 7 came"):
        fast(ids, ids, ids, None, None, None, None)


def test_answers_are_not_overwritten_by_the_next_call(fast: AcceleratedModel) -> None:
    first = fast(input_ids=np.array([[5, 6, 7]])).logits
    kept = first.copy()
    fast(input_ids=np.array([[50, 60, 70]]))
    np.testing.assert_array_equal(first, kept)


def test_closed_it_refuses_to_run(fast: AcceleratedModel, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        loaded(input_ids=np.array([[5, 6, 7]]))
    with pytest.raises(SessionError):
        loaded(input_ids=np.array([[5, 6, 7]]))


def test_load_of_a_backend_that_is_not_there(fast: AcceleratedModel, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with pytest.raises(UnavailableError, match="'oort'"):
        load(tmp_path / "out", target="oort")
    assert load(tmp_path / "out", target="ort:cpu").backend == "ort"


def test_saving_twice_and_among_other_files(fast: AcceleratedModel, tmp_path: Path) -> None:
    place = tmp_path / "out"
    fast.save_pretrained(place)
    (place / "README.md").write_text("mine")
    fast.save_pretrained(place)
    assert (place / "README.md").read_text() == "mine"
    assert load(place).task == fast.task
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
