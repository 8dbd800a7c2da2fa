"""Models of timm say what they take: a picture of the size in their `pretrained_cfg`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from optimum_core import accelerate, load
from optimum_core.errors import OptionError

_DESCRIBED = {
    "architecture": "tiny", "input_size": (3, 12, 12), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
    "num_classes": 4, "label_names": ["a", "b", "c", "d"],
}  # fmt: skip


class _Described(torch.nn.Module):
    """A module with a description as timm's models have it."""

    def __init__(self, described: Any) -> None:
        super().__init__()
        self.pretrained_cfg = described
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def test_a_described_module_needs_no_samples(tmp_path: Path) -> None:
    model = _Described(_DESCRIBED).eval()
    fast = accelerate(model, target="ort", budget=0, cache_dir=tmp_path / "cache")
    pictures = torch.randn(3, 3, 12, 12)
    assert fast.manifest.verified and fast.manifest.inputs[0].shape[:2] == ("batch", 3)
    assert torch.allclose(fast(pictures), model(pictures), atol=1e-4)
    fast.save_pretrained(tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert described["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5] and described["label_names"] == ["a", "b", "c", "d"]
    assert load(tmp_path / "out").config.num_labels == 4


def test_a_description_without_a_size_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="says nothing of what it takes"):
        accelerate(_Described({"architecture": "tiny"}), target="ort", cache_dir=tmp_path / "cache")


def test_a_model_of_timm_is_accelerated(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="pip install timm")
    model = timm.create_model("resnet10t", pretrained=False, num_classes=5).eval()
    fast = accelerate(model, target="ort", budget=0, cache_dir=tmp_path / "cache")
    pictures = torch.randn(1, 3, 176, 176)
    assert torch.allclose(fast(pictures), model(pictures), atol=1e-3)


def test_a_directory_of_timm_is_accelerated(tmp_path: Path) -> None:
    """It names the number of its classes twice."""
    timm = pytest.importorskip("timm", reason="pip install timm")
    model = timm.create_model("resnet10t", pretrained=False, num_classes=5).eval()
    timm.models.save_for_hf(model, tmp_path / "theirs")
    fast = accelerate(tmp_path / "theirs", target="ort", budget=0, cache_dir=tmp_path / "cache")
    pictures = torch.randn(1, 3, 176, 176)
    assert fast.task == "image-classification" and fast.config.num_labels == 5
    assert torch.allclose(fast(pixel_values=pictures).logits, model(pictures), atol=1e-3)
    picture = np.random.default_rng(0).integers(0, 256, (200, 190, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    wanted = model(processor(Image.fromarray(picture))["pixel_values"])[0].detach().numpy()
    for item in (picture, Image.fromarray(picture)):
        assert np.allclose(fast.map([item])["logits"][0], wanted, atol=1e-3)
