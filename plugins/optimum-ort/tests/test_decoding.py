"""Decoders with their keys and values in ONNX Runtime: handed from call to call, and in buffers that grow in place."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optimum_core import accelerate, load
from optimum_core.errors import ExportError, InputError, OptionError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.hardware import detect
from optimum_core.measure import Effort, measuring
from optimum_core.models.exporting import torchscript
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, decoder_request, described
from optimum_core.testing.quantizing import weight_only
from optimum_core.types import (
    Artifact,
    Fidelity,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
    StatefulSession,
)
from optimum_core.types.arrays import NDArray
from optimum_core.verify import dialogues
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues
from optimum_ort import memory, storage

Exported = Callable[..., Artifact]
Open = Callable[..., Decoder]
Ask = Callable[..., OptimizeRequest]

#: Whether the cache is copied in every call, or shared.
WAYS = [None, "shared_cache"]


@pytest.fixture(scope="module")
def opened(exported: Exported, shared_cache: Exported) -> Open:
    """Opens a decoder at a level, once for each."""
    found: dict[tuple[str, str | None], Decoder] = {}

    def open_kind(kind: str = "llama", level: str | None = None) -> Decoder:
        if (kind, level) not in found:
            found[kind, level] = started(exported(kind, "onnx") if level is None else shared_cache(kind))
        return found[kind, level]

    return open_kind


def started(artifact: Artifact, **options: Any) -> Decoder:
    request = SessionRequest(
        backend="ort", artifact=artifact, device="cpu", hardware=detect(), threads=1, options=options
    )
    session = manager().load_session(request)
    assert isinstance(session, StatefulSession)
    return Decoder(session, manager().binder)


def rows(kind: str, count: int, length: int, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).integers(3, 99, (count, length))


@pytest.mark.parametrize("level", WAYS)
@pytest.mark.parametrize("kind", ["llama", "gemma2", "opt", "falcon"])
def test_families_agree_with_eager_over_whole_dialogues(kind: str, level: str | None, opened: Open) -> None:
    """Grouped heads; a window of 8 and bounded scores; positions counted by the mask; one head for all queries."""
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    found = with_dialogues(nothing, opened(kind, level), drawn_dialogues(decoder(kind), described(kind)))
    assert found.passed, found.worst
    assert len(found.results) == (8 if kind == "gemma2" else 7)


def test_buffers_are_shared_where_weights_lie_beside_the_graph(
    optimize_request: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tracing writes those of large models: it folds no constants then, by which attention is recognized."""
    monkeypatch.setattr(torchscript, "_PROTOBUF_LIMIT", 1000)
    monkeypatch.setattr(storage, "_READ_BYTES", 1)  # as weights of a large model are, they are left in their file
    folder = tmp_path / "exported"
    folder.mkdir()
    artifact = manager().export(decoder_request("llama", "onnx", "onnx", folder, "torchscript"))
    assert artifact.files == ("model.onnx", "model.onnx.data")
    drives = started(manager().optimize(optimize_request(artifact, level="shared_cache")))
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    found = with_dialogues(nothing, drives, drawn_dialogues(decoder("llama"), described("llama")))
    assert found.passed, found.worst


@pytest.mark.parametrize("kind", ["mamba", "qwen3_next"])
def test_states_of_a_fixed_size_agree_with_eager_over_whole_dialogues(kind: str, exported: Exported) -> None:
    """Alone, and in layers between those with keys and values."""
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    drives = started(exported(kind, "onnx", route="torchscript"))
    found = with_dialogues(nothing, drives, drawn_dialogues(decoder(kind), described(kind)))
    assert found.passed, found.worst
    assert len(found.results) == 7 and not any(result.note for result in found.results)
    generation = drives.begin(1)
    generation.feed(rows(kind, 1, 5))
    with pytest.raises(UnavailableError, match="no tokens can be taken back"):
        generation._state.crop(4)  # the backend itself, whatever drives it


def test_the_export_through_torch_export_keeps_the_cache(exported: Exported) -> None:
    drives = started(exported("llama", "onnx", route="dynamo"))
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    found = with_dialogues(nothing, drives, drawn_dialogues(decoder("llama"), described("llama")))
    assert found.passed, found.worst


def test_the_buffer_of_keys_is_input_and_output(exported: Exported, shared_cache: Exported) -> None:
    made = shared_cache("llama")
    graph = onnx.load(made.main_file).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("GroupQueryAttention") == 2
    assert "Softmax" not in operators
    past = next(value for value in graph.input if value.name == "past_key_values.0.key")
    assert past.type.tensor_type.shape.dim[2].dim_param == memory.CAPACITY


@pytest.mark.parametrize("level", WAYS)
def test_rows_are_dropped_and_repeated(level: str | None, opened: Open) -> None:
    ids = rows("llama", 3, 9)
    alone = [opened(level=level).begin(1).feed(ids[row : row + 1])[0, -1] for row in range(3)]
    generation = opened(level=level).begin(3)
    generation.feed(ids[:, :8])
    generation.reorder([2, 0, 0, 1, 2])
    last = generation.feed(ids[[2, 0, 0, 1, 2], 8:])[:, -1]
    np.testing.assert_allclose(last, [alone[row] for row in (2, 0, 0, 1, 2)], atol=1e-3)
    generation.reorder([3])
    assert generation.feed(ids[:1, :2]).shape == (1, 2, 99)


@pytest.mark.parametrize("level", WAYS)
def test_a_mask_with_holes_hides_what_it_says(level: str | None, opened: Open) -> None:
    ids, mask = rows("llama", 2, 9), np.ones((2, 9), np.int64)
    mask[0, 3:5] = mask[1, :2] = 0
    whole = opened(level=level).begin(2).feed(ids, mask)
    generation = opened(level=level).begin(2)
    pieces = [generation.feed(ids[:, a:b], mask[:, :b]) for a, b in ((0, 4), (4, 8), (8, 9))]
    seen = mask.astype(bool)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1)[seen], whole[seen], atol=1e-3)
    kept = opened(level=level).begin(1).feed(ids[1:, 2:])
    np.testing.assert_allclose(whole[1:, 2:], kept, atol=1e-3)
    unmasked = opened(level=level).begin(2).feed(ids)
    assert np.abs(unmasked[0, -1] - whole[0, -1]).max() > 0.1


def test_buffers_grow_by_doubling(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_ROOM", 1)
    ids = rows("llama", 2, 40)
    whole = opened().begin(2).feed(ids)
    generation = opened(level="shared_cache").begin(2)
    capacities = []
    for at in range(40):
        np.testing.assert_allclose(generation.feed(ids[:, at : at + 1])[:, 0], whole[:, at], atol=1e-3)
        capacities.append(buffers(generation)[0].shape[2])
    assert sorted(set(capacities)) == [2, 4, 8, 16, 32, 64]


def buffers(generation: Generation) -> list[NDArray]:
    state: Any = generation._state
    return list(state._memory._buffers)


def test_a_call_writes_only_behind_the_positions_in_use(opened: Open) -> None:
    generation = opened(level="shared_cache").begin(1)
    first = generation.feed(rows("llama", 1, 6)).copy()
    before = [buffer[:, :, :6].copy() for buffer in buffers(generation)]
    logits = generation.feed(rows("llama", 1, 3, seed=1))
    kept = logits.copy()
    generation.feed(rows("llama", 1, 1, seed=2))
    assert all(np.array_equal(a, b[:, :, :6]) for a, b in zip(before, buffers(generation), strict=True))
    assert np.array_equal(logits, kept)  # an answer is not overwritten by the next call
    assert first.shape == (1, 6, 99)


@pytest.mark.parametrize("level", WAYS)
def test_threads_generate_side_by_side(level: str | None, opened: Open) -> None:
    prompts = [rows("llama", 2, 5 + at, seed=at) for at in range(4)]
    wanted = [texts(opened(level=level), prompt) for prompt in prompts]
    found: dict[int, list[NDArray]] = {}

    def work(at: int) -> None:
        found[at] = [texts(opened(level=level), prompts[at]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for at, want in enumerate(wanted):
        assert all(np.array_equal(text, want) for text in found[at])


def texts(drives: Decoder, ids: NDArray) -> NDArray:
    """Return twelve tokens, chosen greedily."""
    generation, tokens = drives.begin(len(ids)), [ids]
    for _ in range(12):
        tokens.append(generation.feed(tokens[-1], keep="last").argmax(-1))
    return np.concatenate(tokens[1:], axis=1)


@pytest.mark.parametrize("level", WAYS)
def test_a_refused_call_changes_nothing(level: str | None, opened: Open) -> None:
    state: Any = opened(level=level).session.begin(1)
    run = manager().binder(state)
    given = {"input_ids": rows("llama", 1, 2), "position_ids": np.array([[0, 1]]), "logits_to_keep": np.array([1])}
    with pytest.raises(InputError, match=r"attention_mask is \[1, 3\], and the state needs \[1, 2\]"):
        run({**given, "attention_mask": np.ones((1, 3), np.int64)})
    with pytest.raises(InputError, match="2 rows came, and the state has 1"):
        run({**given, "input_ids": rows("llama", 2, 2), "attention_mask": np.ones((2, 2), np.int64)})
    with pytest.raises(SessionError, match="the run failed"):
        run({**given, "input_ids": np.array([[1.0, 2.0]]), "attention_mask": np.ones((1, 2), np.int64)})
    assert state.length == 0
    want = opened(level=level).begin(1).feed(given["input_ids"])[:, -1:]
    np.testing.assert_array_equal(run({**given, "attention_mask": np.ones((1, 2), np.int64)})["logits"], want)
    state.close()
    with pytest.raises(SessionError, match="closed"):
        run({**given, "attention_mask": np.ones((1, 4), np.int64)})


def test_a_closed_session_begins_no_state_and_leaves_those_in_use(exported: Exported) -> None:
    drives = started(exported("llama", "onnx"))
    generation = drives.begin(1)
    drives.session.close()
    with pytest.raises(SessionError, match="closed"):
        drives.begin(1)
    assert generation.feed(rows("llama", 1, 3)).shape == (1, 3, 99)


def test_attention_of_another_form_is_refused_and_says_why(exported: Exported, optimize_request: Ask) -> None:
    with pytest.raises(ExportError, match="between"):
        manager().optimize(optimize_request(exported("bloom", "onnx"), level="shared_cache"))


def test_a_model_without_cache_is_refused(exported: Exported, optimize_request: Ask) -> None:
    forgetful = dataclasses.replace(exported("llama", "onnx"), state=None)
    with pytest.raises(ExportError, match="keeps no cache"):
        manager().optimize(optimize_request(forgetful, level="shared_cache"))


@pytest.mark.parametrize("name", ["weight-only-int8", "weight-only-int4", "dynamic-int8", "dynamic-int4"])
def test_a_quantized_decoder_shares_its_cache(name: str, exported: Exported, tmp_path: Path, opened: Open) -> None:
    config = QuantizeConfig.named(name)
    made = manager().quantize(
        QuantizeRequest(
            backend="ort", artifact=exported("llama", "onnx"), config=config, output=tmp_path, hardware=detect()
        )
    )
    assert made.steps[-1].options["cache"] == "shared"
    nodes = onnx.load(made.main_file).graph.node
    levels = {item.i for node in nodes for item in node.attribute if item.name == "accuracy_level"}
    assert levels - {0} == ({4} if name == "dynamic-int4" else set())
    drives, ids = started(made), rows("llama", 2, 12)
    mask = np.ones_like(ids)
    mask[0, :5] = 0
    generation = drives.begin(2)
    padded = [generation.feed(ids[:, a:b], mask[:, :b], "counts") for a, b in ((0, 7), (7, 11), (11, 12))]
    alone = drives.begin(1).feed(ids[:1, 5:])
    np.testing.assert_allclose(np.concatenate(padded, axis=1)[:1, 5:], alone, atol=1e-2)
    plain = started(dataclasses.replace(made, steps=()), graph_optimization_level="basic").begin(1).feed(ids[:1, 5:])
    moved = np.abs(plain - alone).max()  # what rounding of activations adds to the graph as it is written
    assert moved < 1e-4 if name.startswith("weight-only") else moved > 1e-2 or name == "dynamic-int4"
    exact = opened().begin(1).feed(ids[:1, 5:])
    correlation = np.corrcoef(alone.ravel(), exact.ravel())[0, 1]
    assert 0.8 < correlation < 1 - 1e-9


def test_layers_of_a_decoder_stay_in_float_by_their_names(exported: Exported, tmp_path: Path) -> None:
    config = weight_only(weights="int4", exclude=("model.layers.0", "lm_head"))
    request = QuantizeRequest(
        backend="ort", artifact=exported("llama", "onnx"), config=config, output=tmp_path, hardware=detect()
    )
    made = manager().quantize(request)
    products = [node for node in onnx.load(made.main_file).graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == 4  # one for queries, keys and values, and one for both halves of the gated layer
    assert made.steps[-1].options["merged"] == 3
    with pytest.raises(OptionError, match=r"e.g., (.|\n)*model\.layers"):
        manager().quantize(dataclasses.replace(request, config=dataclasses.replace(config, exclude=("layers.9",))))


def test_a_model_is_quantized_with_its_cache_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogues, "GREEDY", 16)
    rows_of = [{"input_ids": rows("llama", 1, 6 + at % 5, seed=at)} for at in range(40)]
    asked: Any = {
        "target": "ort", "level": "shared_cache", "quantize": "dynamic-int4", "max_drop": 0.6, "calibration": rows_of,
        "shapes": [(1, 8, 4)], "cache_dir": tmp_path / "cache", "budget": 1,
    }  # fmt: skip
    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(decoder("llama"), **asked)
    assert (fast.manifest.quantized, fast.can_generate()) == ("dynamic-int4", True)
    fidelity, report = fast.manifest.fidelity, fast.report
    assert fidelity is not None and report is not None
    near = next(item for item in fidelity.results if item.divergence is not None)
    assert "tokens of unseen data" in near.case and near.divergence is not None and 0 < near.divergence < 1
    assert [trial.outcome for trial in report.walk].count("kept") == 1
    assert "of the likeliest next tokens are eager's" in str(report)
    ids = rows("llama", 2, 9)
    want = fast.generate(ids, max_new_tokens=8, do_sample=False)
    fast.save_pretrained(tmp_path / "out")
    assert np.array_equal(load(tmp_path / "out").generate(ids, max_new_tokens=8, do_sample=False), want)
    again = accelerate(decoder("llama"), **asked)
    assert again.report is not None and again.report.from_cache
    assert np.array_equal(again.generate(ids, max_new_tokens=8, do_sample=False), want)


def test_a_scheme_for_models_without_a_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"static-int8(.|\n)*generates(.|\n)*weight-only-int8"):
        accelerate(
            decoder("llama"), target="ort", quantize="static-int8", cache_dir=tmp_path,
            calibration=[{"input_ids": rows("llama", 1, 6, seed=at)} for at in range(20)],
        )  # fmt: skip
