"""The face of an accelerated model: what transformers and its users ask of a model."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.errors import InputError, NotTorchError, SessionError, UnavailableError
from optimum_core.models.sources.source import MemorySource
from optimum_core.packing import model_info
from optimum_core.plugins import manager
from optimum_core.runtime.opening import open_model


@pytest.fixture(scope="module")
def fast(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcceleratedModel]:
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


def test_without_transformers_labels_are_numbered_too(fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find_spec(name))
    with open_model(fast.manifest, fast.directory, plugins=manager()) as bare:
        assert bare.config.id2label == fast.config.id2label == {n: f"LABEL_{n}" for n in range(5)}
        assert bare.config.num_labels == fast.config.num_labels
        assert bare.config.label2id == fast.config.label2id


def test_modes_and_devices(fast: AcceleratedModel) -> None:
    assert fast.eval() is fast
    assert fast.train(False) is fast and fast.requires_grad_(False) is fast
    assert fast.training is False  # `was = model.training; model.eval(); …; model.train(was)`
    for stay in (("cpu",), (torch.device("cpu"),), (torch.float32,), ("cpu", torch.float32), (None,)):
        assert fast.to(*stay) is fast
    assert fast.to(device="cpu", non_blocking=True) is fast
    with pytest.raises(UnavailableError, match="train the eager model"):
        fast.train()
    with pytest.raises(UnavailableError, match="cannot be trained"):
        fast.requires_grad_()


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", torch.device("meta")])
def test_another_device_is_refused_without_a_target_that_is_none(wanted: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(
        UnavailableError, match=r"it runs on cpu in float32, not (cuda|meta)(.|\n)*no backend here"
    ) as said:
        fast.to(wanted)
    assert "target=" not in said.value.remedy
    assert fast.to(torch.ones(1)) is fast


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [
        (lambda fast: fast.to(torch.float16), "precision='fp16'"),
        (lambda fast: fast.to(torch.bfloat16), "precision='bf16'"),
        (lambda fast: fast.to(dtype=torch.float64), "convert its outputs"),
        (lambda fast: fast.half(), "precision='fp16'"),
        (lambda fast: fast.bfloat16(), "precision='bf16'"),
        (lambda fast: fast.double(), "convert its outputs"),
        (lambda fast: fast.cuda(), "no backend here runs on 'cuda'"),
        (lambda fast: fast.cuda(1), "no backend here runs on 'cuda:1'"),
    ],
)
def test_another_type_is_refused_with_what_there_is(ask: Any, remedy: str, fast: AcceleratedModel) -> None:
    with pytest.raises(UnavailableError) as said:
        ask(fast)
    assert remedy in said.value.remedy
    assert "target=" not in said.value.remedy


def test_what_it_is_already(fast: AcceleratedModel) -> None:
    assert fast.cpu() is fast.float() is fast


@pytest.mark.parametrize("name", ["parameters", "named_parameters", "state_dict", "modules", "register_forward_hook"])
def test_what_only_a_module_of_torch_has(name: str, fast: AcceleratedModel) -> None:
    assert not hasattr(fast, name)
    with pytest.raises(NotTorchError, match=rf"no {name!r}: it is no torch\.nn\.Module(.|\n)*fast\.device"):
        getattr(fast, name)()


def test_a_name_that_is_mistyped(fast: AcceleratedModel) -> None:
    with pytest.raises(AttributeError, match="no attribute 'save_pretrain'; did you mean 'save_pretrained'"):
        fast.save_pretrain  # noqa: B018 - the access is what is tested


def test_as_a_part_of_a_module(fast: AcceleratedModel) -> None:
    holder: Any = torch.nn.Module()
    holder.part = fast
    assert holder.part is fast
    holder.other = torch.nn.Identity()
    with pytest.raises(TypeError, match=r"accelerated, no torch\.nn\.Module: keep it under a name"):
        holder.other = fast


CALL = {"input_ids": np.array([[5, 6, 7, 8]])}


def test_a_tuple_where_the_configuration_says_so(fast: AcceleratedModel) -> None:
    model = dataclasses.replace(fast.manifest.model, returns_tuple=True)
    manifest = dataclasses.replace(fast.manifest, model=model)
    ids = torch.tensor(CALL["input_ids"])
    with open_model(manifest, fast.directory, plugins=manager()) as tuples:
        for made in (tuples(ids), tuples(input_ids=ids, return_dict=None), fast(ids, return_dict=False)):
            assert isinstance(made, tuple)
            torch.testing.assert_close(made[0], fast(ids).logits)
        torch.testing.assert_close(tuples(ids, return_dict=True).logits, fast(ids).logits)
        tuples.config.return_dict = False
        with copy.deepcopy(tuples) as copied:
            assert isinstance(copied(ids), tuple)


@pytest.mark.parametrize("form", [torch.tensor, np.array])
def test_a_call_like_the_one_before_takes_the_short_way(
    fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    with copy.copy(fast) as model:
        call = [form(np.ones_like(CALL["input_ids"])) for _ in model.manifest.inputs]
        want = model(*call).logits
        model.config.update({"output_hidden_states": False})  # as before, in another word
        model(*call)
        monkeypatch.setattr(model._checker, "bind", None)
        by_name = dict(zip((spec.name for spec in model.manifest.inputs), call, strict=True))
        for found in (model(*call), model(**by_name), model(*pickle.loads(pickle.dumps(call)))):
            assert np.array_equal(found.logits, want)


def test_a_configuration_that_is_changed_later_is_followed(fast: AcceleratedModel, tiny: Callable[[str], Any]) -> None:
    ids = torch.tensor(CALL["input_ids"])
    module = tiny("bert")
    live = open_model(fast.manifest, fast.directory, plugins=manager(), source=MemorySource(module))
    saved = open_model(fast.manifest, fast.directory, plugins=manager())
    for model, config in ((live, module.config), (saved, saved.config)):
        for asked in (False, True):
            config.return_dict = asked
            assert isinstance(model(ids), tuple) is not asked
            assert isinstance(model(ids, return_dict=True), dict)
        model.close()


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_a_configuration_that_asks_for_other_outputs_later_is_refused(
    name: str, fast: AcceleratedModel, tiny: Callable[[str], Any]
) -> None:
    ids = torch.tensor(CALL["input_ids"])
    module = copy.deepcopy(tiny("bert"))
    module.set_attn_implementation("eager")  # the others give no attentions
    live = open_model(fast.manifest, fast.directory, plugins=manager(), source=MemorySource(module))
    saved = open_model(fast.manifest, fast.directory, plugins=manager())
    saved.config._attn_implementation = "eager"
    for model, config in ((live, module.config), (saved, saved.config)):
        want = model(ids).logits
        setattr(config, name, True)
        again = copy.deepcopy(model) if model is live else model
        for call in (lambda: model(ids), lambda: again(input_ids=ids), lambda: model.map([{"input_ids": ids[0]}])):  # noqa: B023
            with pytest.raises(InputError, match=rf"config\.{name}=True asks for something"):
                call()
        setattr(config, name, None)
        torch.testing.assert_close(model(ids).logits, want)
        model.close()


@pytest.mark.parametrize(("name", "other"), [("hidden_states", "attentions"), ("attentions", "hidden_states")])
def test_a_call_that_declines_outputs_it_was_exported_with_is_refused(
    name: str, other: str, tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    module = copy.deepcopy(tiny("bert"))
    module.set_attn_implementation("eager")
    setattr(module.config, f"output_{name}", True)
    ids = torch.tensor(CALL["input_ids"])
    with accelerate(module, target="ort", budget=0, cache_dir=tmp_path) as fast:
        for asked in (None, False):
            assert list(fast(ids, **{f"output_{other}": asked, f"output_{name}": None})) == ["logits", name]
        for asked in (False, True):
            with pytest.raises(InputError, match=rf"output_{name}={asked}(.|\n)*leave output_{name} out"):
                fast(ids, **{f"output_{name}": asked})


@pytest.mark.parametrize("asked", [True, False])
def test_the_manifest_says_what_the_configuration_asks_for(
    asked: bool, described: Callable[[str], tuple[Any, Any]], tiny: Callable[[str], Any]
) -> None:
    module = tiny("bert")
    other = MemorySource(module).fingerprint
    module.config.return_dict = asked
    source = MemorySource(module)
    assert model_info(source, described("bert")[1]).returns_tuple is not asked
    assert (source.fingerprint == other) is asked  # or the two would find each other in the cache


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
        ({"input_ids": np.array([[1, -100]])}, "ids from 0 to 119, got -100"),
        (
            {"input_ids": np.array([[1, 2]]), "labels": np.array([1])},
            "'labels', argument 6 of its forward, was not exported",
        ),
        ({"input_ids": np.array([[1, 2]]), "label": np.array([1])}, "it has no input 'label'"),
        ({"input_ids": np.array([[1, 2]]), "output_hidden_states": True}, "not exported with"),
        ({"input_ids": [[1, 2], [3]]}, "is no tensor"),
        ({"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((3, 3), np.int64)}, "batch 2"),
    ],
)
def test_wrong_inputs(arguments: dict[str, Any], said: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=said) as raised:
        fast(**arguments)
    assert raised.value.remedy


def test_floats_of_sixteen_bits_are_widened(tmp_path: Path) -> None:
    model, x = torch.nn.Linear(8, 2).eval(), torch.randn(3, 8)
    with accelerate(model, target="ort", budget=0, cache_dir=tmp_path, sample_inputs=x) as fast, torch.no_grad():
        for dtype in (torch.float16, torch.bfloat16):
            torch.testing.assert_close(fast(x.to(dtype)), model(x.to(dtype).float()), rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="'input'"):
            fast(x.to(torch.complex64))


@pytest.mark.parametrize(
    ("called", "remedy"),
    [
        (lambda fast: fast("a text"), r"fast.map"),
        (lambda fast: fast(["a", "b"]), r"fast.map"),
        (lambda fast: fast(input_ids="a text"), r"tokenizer\("),
        (lambda fast: fast(BatchEncoding({"input_ids": [[1, 2]]})), r"fast\(\*\*encoding\)"),
        (lambda fast: fast({"input_ids": [[1, 2]]}), r"fast\(\*\*encoding\)"),
    ],
)
def test_what_is_no_call_of_a_model(called: Any, remedy: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=remedy):
        called(fast)


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
