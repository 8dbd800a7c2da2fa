"""Decisions are found again for models of one shape on one machine, and never anywhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from formula import Formula
from optimum_core import accelerate
from optimum_core.cache import Cache
from optimum_core.errors import SourceError
from optimum_core.plan import Way
from optimum_core.plugins import manager
from optimum_core.plugins.discovery import DISABLED_ENV
from optimum_core.search.history import Decided, History, shape_of
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import Event


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _history(place: Path, *, version: str = "1", shapes: Any = None) -> History:
    return History(
        cache=Cache(place), machine={"versions": {"acme": version}}, question={"shape": "x", "shapes": shapes}
    )


def _spec(name: str) -> CandidateSpec:
    backend, device = name.split()
    return CandidateSpec(way=Way(backend=backend, device=device, precision="fp32"))


def test_nothing_is_decided_at_first(tmp_path: Path) -> None:
    assert _history(tmp_path).decided() is None
    assert _history(tmp_path).won_before() == ()


def test_a_decision_is_found_again_by_its_question(tmp_path: Path) -> None:
    _history(tmp_path).remember(_spec("acme cpu"), about="a model")
    assert _history(tmp_path).decided() == Decided(spec=_spec("acme cpu").id)
    assert _history(tmp_path, shapes=[[1, 8]]).decided() is None
    assert _history(tmp_path, shapes=[[1, 8]]).won_before() == (_spec("acme cpu").id,)


def test_another_version_opens_everything_again(tmp_path: Path) -> None:
    _history(tmp_path).remember(_spec("acme cpu"), about="a model")
    changed = _history(tmp_path, version="2")
    assert changed.decided() is None
    assert changed.won_before() == ()


def test_winners_are_listed_the_latest_first_once_each_and_not_without_end(tmp_path: Path) -> None:
    history = _history(tmp_path)
    for number in range(20):
        history.remember(_spec(f"way {number}"), about="a model")
    history.remember(_spec("way 10"), about="a model")
    won = history.won_before()
    assert won[:3] == tuple(_spec(name).id for name in ("way 10", "way 19", "way 18"))
    assert len(won) == len(set(won)) == 16
    assert history.decided() == Decided(spec=_spec("way 10").id)


@pytest.mark.parametrize("spoiled", [b"", b"{", b'{"sha256": "0", "value": {"names": ["x"]}}', b"\xff"])
def test_a_record_that_was_altered_counts_as_none(spoiled: bytes, tmp_path: Path) -> None:
    history = _history(tmp_path)
    history.remember(_spec("acme cpu"), about="a model")
    records = list(tmp_path.rglob("record.json"))
    assert len(records) == 2
    for record in records:
        record.write_bytes(spoiled)
    assert history.decided() is None
    assert history.won_before() == ()
    history.remember(_spec("acme gpu"), about="a model")
    assert history.decided() == Decided(spec=_spec("acme gpu").id)


# Which models share a decision.


def test_other_weights_and_labels_are_one_shape(tiny: Callable[[str], Any]) -> None:
    one, other = tiny("bert"), tiny("bert")
    _change(other)
    other.config.id2label = {index: f"word {index}" for index in range(5)}
    other.config.name_or_path = "someone/else"
    assert shape_of(one) == shape_of(other)


@pytest.mark.parametrize(("name", "value"), [("hidden_act", "relu"), ("num_attention_heads", 2)])
def test_what_changes_the_arithmetic_is_another_shape(name: str, value: Any, tiny: Callable[[str], Any]) -> None:
    one, other = tiny("bert"), tiny("bert")
    setattr(other.config, name, value)
    assert shape_of(one) != shape_of(other)


def test_another_class_or_dtype_is_another_shape(tiny: Callable[[str], Any]) -> None:
    assert shape_of(tiny("bert")) != shape_of(tiny("bert").bert)
    assert shape_of(tiny("bert")) != shape_of(tiny("bert").half())
    assert shape_of(torch.nn.Linear(3, 2)) != shape_of(torch.nn.Linear(2, 3))
    assert shape_of(torch.nn.Linear(3, 2)) == shape_of(torch.nn.Linear(3, 2))


def _change(model: Any) -> None:
    with torch.no_grad():
        model.classifier.weight.add_(0.3)


def _verified(events: list[Event]) -> list[str]:
    """Names of what was compared with eager, the baseline left out."""
    began = [event.detail for event in events if event.stage == "verify" and event.seconds is None]
    return [detail for detail in began if not detail.startswith("torch cpu (the model as it is):")]


@pytest.fixture
def few_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those that the test environment always has, so that the search does not grow with what else is installed."""
    others = [name for name in manager().names() if name not in ("torch", "onnx", "ort")]
    monkeypatch.setenv(DISABLED_ENV, ",".join(others))
    manager.cache_clear()
    yield
    manager.cache_clear()


@pytest.mark.usefixtures("few_backends")
def test_a_second_fine_tuning_builds_one_candidate_only(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    first, second = tiny("bert"), tiny("bert")
    _change(second)
    before: list[Event] = []
    after: list[Event] = []
    settings: dict[str, Any] = {"shapes": [(1, 8)], "cache_dir": tmp_path, "budget": 0}
    one = accelerate(first, progress=before.append, **settings)
    two = accelerate(second, progress=after.append, **settings)
    assert one.report is not None and one.report.chosen is not None
    assert two.report is not None and two.report.chosen is not None
    assert len(_verified(before)) >= 1
    assert len(_verified(after)) <= 1
    rest = [item for item in two.report.candidates if item.outcome == "skipped"]
    assert len(rest) >= len(two.report.candidates) - 2 > 0
    assert {item.reason for item in rest} == {"another won for a model of the same shape on this machine before"}
    assert len([event for event in after if event.stage == "export" and event.seconds is None]) <= 1
    assert two.report.chosen.name == one.report.chosen.name
    assert "won for a model of the same shape" in two.report.chosen.reason
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(two(ids).logits, second(ids).logits.detach(), rtol=1e-3, atol=1e-3)
    assert not two.report.from_cache


def test_an_ask_with_another_workload_is_searched_anew(tmp_path: Path) -> None:
    history = _history(tmp_path, shapes=[[1, 8]])
    history.remember(_spec("acme cpu"), about="a model")
    assert dataclasses.replace(history, question={"shape": "y", "shapes": [[1, 8]]}).decided() is None


def test_another_module_of_the_same_weights_that_refuses_the_call_is_an_error_of_ours(
    tmp_path: Path,
) -> None:
    x = torch.randn(2, 4)
    arguments: dict[str, Any] = {"target": "torch", "sample_inputs": {"x": x}, "shapes": ({"batch": 1},), "budget": 0}
    arguments["cache_dir"] = tmp_path
    accelerate(Formula(torch.relu).eval(), **arguments)
    with pytest.raises(SourceError, match="eager does not run on sample_inputs"):
        accelerate(Formula(lambda x: x.reshape(3, -1)).eval(), **arguments)
    torch.testing.assert_close(accelerate(Formula(torch.tanh).eval(), **arguments)(x), x.tanh())
