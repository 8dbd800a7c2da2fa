"""A decoder with its cache as state: called as the model is, and fed as the cache allows."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import ExportError, InputError, OptionError, SessionError
from optimum_core.plugins import manager
from optimum_core.types import Artifact
from optimum_coreml import coremltools_adapter, plugin
from optimum_coreml.session import CoreMlSession
from optimum_coreml.texts import Texts, causal_mask

Make = Callable[[str], Any]
Load = Callable[..., CoreMlSession]
ROOM = 32


@pytest.fixture(scope="module")
def stateful(tiny: Make, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    options = {"stateful": True, "context_length": ROOM}
    return manager().export(tiny("gpt2").request(tmp_path_factory.mktemp("stateful"), options=options))


def eager(made: Any, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import torch

    given = {"input_ids": torch.as_tensor(ids), "attention_mask": torch.as_tensor(mask)}
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = made.module(**given, use_cache=False).logits.numpy()
    return logits


def test_it_is_called_as_the_model_is(stateful: Artifact, tiny: Make, load: Load) -> None:
    made, opened = tiny("gpt2"), load(stateful)
    assert [spec.name for spec in stateful.inputs] == ["input_ids", "attention_mask"]
    assert opened.lengths.greatest == {"sequence": ROOM}
    ids = np.random.default_rng(0).integers(3, 90, (2, 12))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    mask[0, :2] = 0
    want = eager(made, ids, mask)
    # Rows of one call, then a text that goes on, one that turns off halfway, and one with another mask.
    for rows, length in ((slice(0, 2), 12), (slice(0, 1), 5), (slice(0, 1), 12), (slice(0, 1), 7), (slice(1, 2), 12)):
        given = {"input_ids": ids[rows, :length], "attention_mask": mask[rows, :length]}
        found = np.asarray(opened.run(given)["logits"])
        seen = mask[rows, :length].astype(bool)
        error = np.abs(found - want[rows, :length])[seen].max() / np.abs(want).max()
        assert error < 1e-3, (rows, length)
    turned = ids[:1].copy()
    turned[0, 6:] = 5
    found = np.asarray(opened.run({"input_ids": turned, "attention_mask": np.ones_like(turned)})["logits"])
    assert np.abs(found - eager(made, turned, np.ones_like(turned))).max() / np.abs(want).max() < 1e-3
    long = np.ones((1, ROOM + 1), np.int64)
    with pytest.raises(InputError, match="the program takes 1 and more x 1 to 32"):
        opened.run({"input_ids": long, "attention_mask": long})


class _Counting:
    """Stands for a program: notes what it is given; its logits are the tokens."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []
        self.fails = False

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        _, _, query, end = inputs["causal_mask"].shape
        assert inputs["input_ids"].shape == (1, query)
        self.spans.append((end - query, end))
        if self.fails:
            raise SessionError("program", "it fails", "nothing")
        return {"logits": inputs["input_ids"][..., None].astype(np.float32)}


def test_only_what_is_new_is_computed() -> None:
    program = _Counting()
    texts = Texts(program, in_pieces=False)

    def ask(*ids: int, mask: list[int] | None = None) -> list[tuple[int, int]]:
        program.spans = []
        kept = np.array([mask or [1] * len(ids)])
        found = texts({"input_ids": np.array([ids]), "attention_mask": kept})["logits"]
        assert found[0, :, 0].tolist() == list(ids)
        return program.spans

    assert ask(7, 8, 9) == [(0, 3)]
    assert ask(7, 8, 9, 4) == [(3, 4)]
    assert ask(7, 8, 9, 4) == []
    assert ask(7, 8, 5) == [(2, 3)], "it turned off after two"
    assert ask(7, 8, 9, 4) == [(2, 4)], "what was written over is not taken for known"
    assert ask(7, 8, 9, 4, mask=[1, 0, 1, 1]) == [(1, 4)], "another mask is another text"
    program.fails = True
    with pytest.raises(SessionError):
        ask(7, 8, 9, 4, 5, mask=[1, 0, 1, 1, 1])
    program.fails = False
    assert ask(7, 8) == [(0, 2)], "what a failure left in the state is not known"


def test_where_it_is_checked_a_text_is_fed_in_pieces() -> None:
    program = _Counting()
    Texts(program, in_pieces=True)({"input_ids": np.arange(9)[None]})
    assert program.spans == [(0, 4), (4, 5), (5, 9)]
    program.spans = []
    Texts(program, in_pieces=True)({"input_ids": np.arange(1)[None]})
    assert program.spans == [(0, 1)]


def test_the_mask_hides_the_future_and_padding() -> None:
    assert (causal_mask(1, np.array([1, 0, 1]))[0, 0] == 0).tolist() == [[True, False, False], [True, False, True]]


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"options": {"minimum_deployment_target": "iOS17"}}, OptionError, "state needs iOS18"),
        ({"options": {"enumerated_shapes": [{"batch": 1}]}}, OptionError, "ranges of lengths"),
        ({"options": {"context_length": 4}}, OptionError, "'context_length' is 4, and the model is tried with"),
        ({"route": "export"}, ExportError, "by route 'trace' alone"),
    ],
)
def test_state_that_cannot_be(
    changes: dict[str, Any], error: type[Exception], problem: str, tiny: Make, tmp_path: Path
) -> None:
    changes["options"] = {"stateful": True, **changes.get("options", {})}
    with pytest.raises(error, match=problem):
        plugin.export(tiny("gpt2").request(tmp_path, **changes))


def test_a_model_of_more_than_texts_has_no_state(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"further: \['token_type_ids'\]"):
        plugin.export(tiny("bert").request(tmp_path, options={"stateful": True}))


def test_on_a_mac_it_goes_through_a_state_of_core_ml(
    stateful: Artifact, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that records what is handed to `predict`. That Core ML takes it is not proved here."""

    calls: list[tuple[tuple[int, ...], tuple[int, ...], str]] = []

    class Model:
        def __init__(self, path: str, compute_units: str) -> None: ...

        def make_state(self) -> str:
            return "the state"

        def predict(self, inputs: dict[str, Any], state: str) -> dict[str, Any]:
            ids, mask = inputs["input_ids"], inputs["causal_mask"]
            assert (ids.dtype, mask.dtype) == (np.int32, np.float32)
            calls.append((ids.shape, mask.shape, state))
            return {"logits": np.zeros((*ids.shape, 99), np.float32)}

    fake = types.SimpleNamespace(models=types.SimpleNamespace(MLModel=Model), ComputeUnit=types.SimpleNamespace(ALL=1))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(coremltools_adapter, "coremltools", lambda: fake)
    opened = load(stateful)
    for length in (6, 7):
        ids = np.arange(length)[None]
        opened.run({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert calls == [((1, 6), (1, 1, 6, 6), "the state"), ((1, 1), (1, 1, 1, 7), "the state")]
