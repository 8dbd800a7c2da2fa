"""Models of pictures with text on OpenVINO: equal to eager, in memory and from files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import load
from optimum_core.testing.pictures import accelerated_pictures, picture_inputs, picture_model, picture_rows

KIND = "gemma3"  # its pictures are read in both directions, and half of its layers have a window


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return accelerated_pictures(KIND, "openvino", tmp_path_factory.mktemp("cache"), budget=1)


WAYS: dict[str, Callable[[Any], Any]] = {
    "greedy": lambda m: m.generate(**picture_rows(KIND), max_new_tokens=24, do_sample=False),
    "sampling": lambda m: m.generate(**picture_rows(KIND), max_new_tokens=12, do_sample=True, top_k=20),
    "beams": lambda m: m.generate(**picture_rows(KIND), max_new_tokens=12, num_beams=4, do_sample=False),
    "text alone": lambda m: m.generate(torch.arange(20, 29)[None], max_new_tokens=12, do_sample=False),
    "no cache": lambda m: m.generate(**picture_inputs(KIND), max_new_tokens=4, do_sample=False, use_cache=False),
    "a call": lambda m: m(**picture_rows(KIND)).logits,
    "the last logits": lambda m: m(**picture_rows(KIND), logits_to_keep=2).logits,
}


@pytest.mark.parametrize("way", WAYS)
def test_it_answers_as_eager_does(fast: Any, way: str) -> None:
    with torch.no_grad():
        torch.manual_seed(3)
        wanted = WAYS[way](picture_model(KIND))
        torch.manual_seed(3)
        made = WAYS[way](fast)
    if made.is_floating_point():
        seen = torch.ones(made.shape[:2], dtype=torch.bool)
        if made.shape[1] == picture_rows(KIND)["attention_mask"].shape[1]:
            seen = picture_rows(KIND)["attention_mask"] == 1
        scale = float(wanted[seen].abs().max())
        torch.testing.assert_close(made[seen], wanted[seen], rtol=0, atol=1e-4 * scale)
    else:
        assert made.tolist() == wanted.tolist()


def test_it_keeps_the_language_model_and_the_report_says_what_was_compared(fast: Any) -> None:
    assert fast.can_generate() and fast.backend == "openvino"
    assert sorted(fast.manifest.parts) == ["decoder", "merge", "vision"]
    cases = [result.case for result in fast.manifest.fidelity.results]
    assert {"a text behind pictures", "rows of pictures, padded on the left"} <= set(cases)


def three_pictures() -> dict[str, Any]:
    """Return three rows with other pictures: a number of them that the tower was not traced with."""
    rows = [picture_inputs(KIND, seed=seed) for seed in range(3)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def test_the_tower_runs_in_the_backend(fast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import SiglipVisionModel

    wanted = picture_model(KIND).generate(**three_pictures(), max_new_tokens=12, do_sample=False)

    @functools.wraps(SiglipVisionModel.forward)
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the eager tower runs")

    monkeypatch.setattr(SiglipVisionModel, "forward", refuse)
    assert fast.generate(**three_pictures(), max_new_tokens=12, do_sample=False).tolist() == wanted.tolist()
    assert any(note.startswith("part vision (model.vision_tower) runs as") for note in fast.report.notes)


def test_several_threads_write_at_once(fast: Any) -> None:
    inputs = [picture_inputs(KIND, seed=seed) for seed in range(3)]

    def write(model: Any, given: dict[str, Any]) -> Any:
        return model.generate(**given, max_new_tokens=8, do_sample=False).tolist()

    wanted = [write(picture_model(KIND), given) for given in inputs]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda given: write(fast, given), inputs)) == wanted


def test_saved_and_loaded_it_writes_the_same(fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        made = loaded.generate(**picture_rows(KIND), max_new_tokens=12, do_sample=False)
    assert made.tolist() == fast.generate(**picture_rows(KIND), max_new_tokens=12, do_sample=False).tolist()
