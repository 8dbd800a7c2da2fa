"""Forwards of other kinds of model at shapes that were not traced: exported by ONNX, equal to eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimum_core import load


def _ids(batch: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(3, 110, (batch, length), generator=torch.Generator().manual_seed(seed))


def _mask(batch: int, length: int) -> torch.Tensor:
    mask = torch.ones(batch, length, dtype=torch.int64)
    if batch > 1:
        mask[-1, length - 2 :] = 0
    return mask


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoder(kind: str, tiny: Callable[[str], Any], to_ort: Callable[..., Any]) -> None:
    model = tiny(kind)
    fast = to_ort(model)
    for batch, length, target in ((1, 5, 9), (4, 21, 3), (2, 33, 33)):
        inputs = {
            "input_ids": _ids(batch, length, length),
            "attention_mask": _mask(batch, length),
            "decoder_input_ids": _ids(batch, target, target + 1),
        }
        with torch.no_grad():
            want = model(**inputs, use_cache=False)
        got = fast(**inputs)
        assert type(got) is type(want)
        scale = want.logits.abs().max()
        torch.testing.assert_close(got.logits / scale, want.logits / scale, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_decoder(kind: str, tiny: Callable[[str], Any], to_ort: Callable[..., Any]) -> None:
    model = tiny(kind)
    fast = to_ort(model)
    for batch, length in ((1, 2), (3, 31), (5, 14)):
        inputs = {"input_ids": _ids(batch, length, length), "attention_mask": _mask(batch, length)}
        with torch.no_grad():
            want = model(**inputs, use_cache=False)
        got = fast(**inputs)
        keep = inputs["attention_mask"].bool()
        scale = want.logits.abs().max()
        torch.testing.assert_close(got.logits[keep] / scale, want.logits[keep] / scale, rtol=1e-3, atol=1e-3)
    assert type(fast).__name__ == type(model).__name__


class Convolutional(torch.nn.Module):
    """Of no library; returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.relu(self.norm(self.first(image)))
        return self.head(features.mean(dim=(2, 3))), features


@pytest.mark.filterwarnings("ignore::optimum_core.errors.UnprovedLengthWarning")  # 11 is shorter than any compared
def test_a_plain_module_with_samples(to_ort: Callable[..., Any], tmp_path: Any) -> None:
    torch.manual_seed(1)
    model = Convolutional().eval()
    fast = to_ort(model, sample_inputs={"image": torch.rand(2, 3, 20, 24)})
    fast.save_pretrained(tmp_path / "out")
    loaded = load(tmp_path / "out")
    for shape in ((1, 3, 20, 24), (3, 3, 11, 40)):
        image = torch.rand(*shape)
        with torch.no_grad():
            want = model(image)
        for got in (fast(image), fast(image=image), loaded(image)):
            assert type(got) is tuple
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
