"""Towers of models of pictures with text: which module becomes one, and which calls a backend answers."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_backend import CLOCK, QUICK, Acme, Deed, Memory, builder_with, wrong
from optimum_core.measure import measuring
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.multimodal.description import merge_of
from optimum_core.models.multimodal.merging import merged_with
from optimum_core.models.multimodal.tower_calls import TowerCalls, record_of, recorded
from optimum_core.models.multimodal.towers import NoTowerError, Tower, call_of, tower_of
from optimum_core.models.sources.source import MemorySource
from optimum_core.plan import parse_target, ways
from optimum_core.search.budget import LEAST_TO_BUILD, Budget
from optimum_core.search.candidate import Candidate
from optimum_core.search.context import SearchResult
from optimum_core.search.spec import CandidateSpec
from optimum_core.search.tower_search import TowerSearch
from optimum_core.testing.decoders import decoder_of
from optimum_core.testing.pictures import described, picture_inputs, picture_model
from optimum_core.types import Artifact, AxisRange, Report, Step
from optimum_core.verify import ReferenceCase
from optimum_core.verify.edge_value_cases import edge_cases


def tower(kind: str) -> Tower:
    return tower_of(picture_model(kind), picture_inputs(kind), kind)


def answering(kind: str, change: float = 1.0) -> tuple[Any, list[Any], Any]:
    """Return the original whose tower is called through arrays, the calls that were, and its record.

    Args:
        change: factor of what the tower answers.
    """
    module, found = picture_model(kind), tower(kind)
    alone, calls = found.module(module), list[Any]()

    def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        calls.append(inputs)
        return {name: change * array for name, array in eager_outputs(alone, inputs).items()}

    step = Step(hook="export", backend="any", tool="any", version="1", options={"route": "any"})
    signature = found.signature
    made = Artifact(
        format="any",
        path=Path(),
        files=(),
        inputs=signature.inputs,
        outputs=signature.outputs,
        steps=(step,),
    )
    axes = {axis: AxisRange(proved=(1, 20)) for axis in signature.axes}
    record = record_of(recorded(made, found, axes).steps)
    known = decoder_of(described(kind))
    merge, decoder = merge_of(module, known)
    behind = merge.before(decoder)
    tower_calls = TowerCalls(record=record, inputs=signature.inputs, run=run)
    return merged_with(merge.original, behind, "test", behind._kinds, [tower_calls]), calls, record


# Which module it is.


@pytest.mark.parametrize(
    ("kind", "path", "inputs"),
    [
        ("llava", "model.vision_tower", ["pixel_values"]),
        ("gemma3", "model.vision_tower", ["pixel_values"]),
        ("smolvlm", "model.vision_model", ["pixel_values", "patch_attention_mask"]),
        ("audioflamingo3", "model.audio_tower", ["input_features", "input_features_mask"]),
    ],
)
def test_the_tower_is_the_largest_module_that_reads_no_values(kind: str, path: str, inputs: list[str]) -> None:
    found = tower(kind)
    assert (found.name, found.path) == ("audio" if "audio" in path else "vision", path)
    assert [spec.name for spec in found.signature.inputs] == inputs
    assert "batch" in found.signature.axes


def test_one_that_reads_sizes_of_pictures_is_none_and_the_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimum_core.models.multimodal.towers._SHARE", 0.9)
    with pytest.raises(NoTowerError, match=r"model\.visual reads values of its inputs in Python \(modeling_qwen2_vl"):
        tower("qwen2_vl")


def test_tensors_in_a_tuple_are_numbered_and_what_is_no_plain_value_makes_no_tower() -> None:
    def forward(x: Any, pair: Any = None, flag: bool = False, other: Any = None, **more: Any) -> None: ...

    ones = torch.ones(1)
    call = call_of(inspect.signature(forward), (ones,), {"pair": (ones, ones), "flag": True, "depth": -2})
    assert call is not None
    assert list(call.tensors) == ["x", "pair.0", "pair.1"] and call.constants == {"flag": True, "depth": -2}
    assert call_of(inspect.signature(forward), (ones,), {"other": object()}) is None


# Which calls a backend answers.


def test_the_merge_calls_the_tower_in_the_backend() -> None:
    face, calls, _ = answering("llava")
    wanted = picture_model("llava")(**picture_inputs("llava")).logits
    torch.testing.assert_close(face(**picture_inputs("llava")).logits, wanted, rtol=1e-4, atol=1e-4)
    assert len(calls) == 1
    otherwise, _, _ = answering("llava", change=1.5)
    assert not torch.allclose(otherwise(**picture_inputs("llava")).logits, wanted, rtol=1e-2, atol=1e-2)


def test_a_call_of_another_form_goes_to_the_eager_tower() -> None:
    face, calls, _ = answering("llava", change=2.0)
    inputs = {**picture_inputs("llava"), "vision_feature_layer": -1}
    torch.testing.assert_close(face(**inputs).logits, picture_model("llava")(**inputs).logits, rtol=1e-4, atol=1e-4)
    assert not calls


def test_a_mask_is_an_input_of_the_tower_whether_it_leaves_something_out_or_not() -> None:
    face, calls, _ = answering("smolvlm")
    inputs = picture_inputs("smolvlm")
    mask = torch.ones(1, 1, 32, 32, dtype=torch.int64)
    mask[..., 16:] = 0
    whole = picture_model("smolvlm")(**inputs).logits
    wanted = picture_model("smolvlm")(**inputs, pixel_attention_mask=mask).logits
    assert not torch.allclose(whole, wanted, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(face(**inputs, pixel_attention_mask=mask).logits, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(face(**inputs).logits, whole, rtol=1e-4, atol=1e-4)
    assert [int(call["patch_attention_mask"].sum()) for call in calls] == [8, 16]


def test_a_mask_that_leaves_nothing_of_a_picture_goes_to_the_eager_tower() -> None:
    """It is compared with no backend either: each answers such rows in a way of its own."""
    face, calls, record = answering("smolvlm", change=2.0)
    module = picture_model("smolvlm").get_submodule(record.path)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    pixels = torch.as_tensor(np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        face.get_submodule(record.path)(pixels, patch_attention_mask=mask, **record.constants)
        assert len(calls) == 1
        mask[1] = False
        made = face.get_submodule(record.path)(pixels, patch_attention_mask=mask, **record.constants)
        wanted = module(pixels, patch_attention_mask=mask, **record.constants)
    assert len(calls) == 1
    torch.testing.assert_close(made.last_hidden_state, wanted.last_hidden_state)
    found, drawn = tower("smolvlm"), list[str]()
    whole = found.module(picture_model("smolvlm"))

    def case(name: str, inputs: Any, outputs: Any) -> ReferenceCase:
        drawn.append(name)
        return ReferenceCase(name=name, inputs=inputs, outputs=outputs, varied=frozenset())

    list(edge_cases(whole, found.signature, case))
    assert "patch_attention_mask all on" in drawn and not any("all off" in name for name in drawn)


def test_lengths_beyond_those_compared_go_to_the_eager_tower_and_any_number_of_pictures_does_not() -> None:
    face, calls, record = answering("paligemma")
    module = picture_model("paligemma").get_submodule(record.path)
    stub = face.get_submodule(record.path)
    for rows, size, answered in ((1, 16, True), (50, 16, True), (1, 20, True), (1, 21, False)):
        calls.clear()
        given = torch.as_tensor(np.random.default_rng(1).standard_normal((rows, 3, size, size)).astype(np.float32))
        with torch.no_grad():
            made, wanted = stub(given), module(given)
        torch.testing.assert_close(made.last_hidden_state, wanted.last_hidden_state, rtol=1e-4, atol=1e-4)
        assert type(made) is type(wanted) and bool(calls) == answered
    assert inspect.signature(stub.forward) == inspect.signature(module.forward)


# The search.


def searched(deed: Deed, place: Path, budget: Budget | None = None) -> tuple[Mapping[str, Artifact], Report]:
    """Return the towers that a search finds for llava where a backend computes so, and the report on the whole."""
    source = MemorySource(picture_model("llava"))
    builder = builder_with(Acme({"only": deed}), source, place)
    every = ways(builder.supports, parse_target("auto"))
    towers = TowerSearch(
        builder=builder,
        signature=described("llava"),
        ways=every,
        plugins=builder.plugins,
        budget=budget or Budget(seconds=1e4, stated=True),
        verify=True,
    )
    spec = CandidateSpec(way=next(way for way in every if not way.is_eager), route="only")
    with measuring(QUICK, clock=CLOCK):
        found = towers(spec)
    whole = Report(model="llava", task="image-text-to-text", workload=(), candidates=())
    winner, case = (
        Candidate(spec=spec, signature=None),
        ReferenceCase(name="", inputs={}, outputs={}, varied=frozenset()),
    )
    return found, towers.noted(SearchResult(winner=winner, report=whole, check=case)).report


def test_where_the_eager_tower_wins_there_is_no_part_and_the_report_says_why(tmp_path: Path) -> None:
    found, report = searched(wrong, tmp_path)
    assert found == {} and report.ended_at is None
    (note,) = report.notes
    assert re.match(r"part vision \(model\.vision_tower\) stays eager: acme\[only] → acme cpu: .*relative error", note)


def test_a_budget_that_has_ended_leaves_the_tower_eager_and_a_longer_one_searches_again(tmp_path: Path) -> None:
    over = Budget(seconds=0.0, stated=True, _start=time.perf_counter() - LEAST_TO_BUILD - 1)
    found, report = searched(Memory(), tmp_path, over)
    assert found == {} and report.ended_at == 0.0
    assert report.notes == ("part vision (model.vision_tower) stays eager: the budget ended before it was tried",)


def test_a_tower_that_is_right_and_faster_becomes_a_part_that_is_told_with_its_time(tmp_path: Path) -> None:
    found, report = searched(Memory(), tmp_path)
    (note,) = report.notes
    assert found["vision"].format == "acme" and record_of(found["vision"].steps).path == "model.vision_tower"
    assert re.match(r"part vision .* runs as acme\[only] → acme cpu, in 0\.01 of the time of the eager one", note)
