"""Models of pictures with text on ONNX Runtime: equal to eager, in memory and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import load
from optimum_core.testing.pictures import accelerated_pictures, picture_model, picture_rows

KIND = "qwen3_vl"  # its positions have axes of time, height and width, and its layers add what the tower sees


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return accelerated_pictures(KIND, "ort", tmp_path_factory.mktemp("cache"), budget=1)


def larger_picture() -> dict[str, Any]:
    """Return a call with a picture of another size than any that was compared."""
    ids = np.concatenate([[[2, 5]], np.full((1, 6), 7), [[6, 20, 21]]], axis=1)
    pixels = np.random.default_rng(5).standard_normal((24, 96)).astype(np.float32)
    return {
        "input_ids": torch.as_tensor(ids), "attention_mask": torch.ones_like(torch.as_tensor(ids)),
        "pixel_values": torch.as_tensor(pixels), "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "mm_token_type_ids": torch.as_tensor((ids == 7).astype(np.int64)),
    }  # fmt: skip


WAYS: dict[str, Callable[[Any], Any]] = {
    "greedy": lambda m: m.generate(**picture_rows(KIND), max_new_tokens=24, do_sample=False),
    "beams": lambda m: m.generate(**picture_rows(KIND), max_new_tokens=12, num_beams=4, do_sample=False),
    "a picture of another size": lambda m: m.generate(**larger_picture(), max_new_tokens=12, do_sample=False),
    "text alone": lambda m: m.generate(torch.arange(20, 29)[None], max_new_tokens=12, do_sample=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_writes_what_eager_writes(fast: Any, way: str) -> None:
    assert WAYS[way](fast).tolist() == WAYS[way](picture_model(KIND)).tolist()


def test_the_report_says_why_the_tower_stays_eager(fast: Any) -> None:
    assert sorted(fast.manifest.parts) == ["decoder", "merge"]
    (note,) = (note for note in fast.report.notes if note.startswith("the tower stays eager"))
    assert "model.visual reads values of its inputs in Python" in note


def test_several_tokens_at_once_go_on_behind_the_picture(fast: Any) -> None:
    made = fast.generate(**picture_rows(KIND), max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    text = torch.cat([made.sequences, torch.tensor([[30, 31], [32, 33]])], dim=1)
    mask = torch.nn.functional.pad(picture_rows(KIND)["attention_mask"], (0, 6), value=1)
    further = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    wanted = picture_model(KIND).generate(
        **picture_rows(KIND), max_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    assert made.sequences.tolist() == wanted.sequences.tolist()
    whole = picture_model(KIND).generate(text, past_key_values=wanted.past_key_values, **further)
    assert fast.generate(text, past_key_values=made.past_key_values, **further).tolist() == whole.tolist()


def test_saved_and_loaded_it_writes_the_same(fast: Any, tmp_path: Path) -> None:
    assert fast.can_generate() and fast.backend == "ort"
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        made = loaded.generate(**picture_rows(KIND), max_new_tokens=12, do_sample=False)
    assert made.tolist() == fast.generate(**picture_rows(KIND), max_new_tokens=12, do_sample=False).tolist()
