"""The call given as `sample_inputs` is accepted afterwards, and so are others that eager takes in the same way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertModel, OwlViTConfig, OwlViTForObjectDetection

from optimum_core import accelerate
from optimum_core.errors import InputError

IDS = torch.randint(5, 99, (3, 9), generator=torch.Generator().manual_seed(1))


def _config() -> BertConfig:
    return BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37, vocab_size=100, num_labels=3
    )


def test_one_row_of_positions_stands_for_all(tmp_path: Path) -> None:
    model, places = BertModel(_config()).eval(), torch.arange(9)[None]
    samples = {"input_ids": IDS[:2], "position_ids": places}
    fast = accelerate(model, target="ort", sample_inputs=samples, budget=2, cache_dir=tmp_path)
    other = torch.cat([places, places.flip(1)])
    calls = ((IDS[:2], places), (IDS, places.flip(1)), (IDS[:2], other), (IDS[:1], places), (IDS[:2], places))
    for ids, given in calls:
        for _ in range(2):  # the second time by the function for repeated calls
            want = model(input_ids=ids, position_ids=given).last_hidden_state
            found = fast(input_ids=ids, position_ids=given).last_hidden_state
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"expected batch 3, as in the other inputs, got 2"):
        fast(input_ids=IDS, position_ids=other)
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]])
    fast = accelerate(model, target="ort", budget=2, cache_dir=tmp_path)
    for typed in (types, types.repeat(3, 1)):
        found = fast(input_ids=IDS.numpy(), token_type_ids=typed.numpy()).last_hidden_state
        want = model(input_ids=IDS, token_type_ids=types).last_hidden_state
        torch.testing.assert_close(torch.from_numpy(found), want, rtol=1e-4, atol=1e-4)


class Weighed(torch.nn.Module):
    """Answers one row of weights otherwise than the same row in the place of each."""

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return x + weights * weights.sum()


def test_one_row_that_means_something_else_stays_one(tmp_path: Path) -> None:
    model, x, weights = Weighed().eval(), torch.randn(5, 8), torch.randn(1, 8)
    fast = accelerate(model, target="ort", sample_inputs={"x": x[:2], "weights": weights}, budget=2, cache_dir=tmp_path)
    for rows in (2, 5):
        torch.testing.assert_close(fast(x[:rows], weights), model(x[:rows], weights), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="length 1 at axis 0, which is fixed"):
        fast(x, x)


class Apart(torch.nn.Module):
    """Takes one row of `a` or of `b` for all, but not of both."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a + b, ((a - b) ** 2).sum() + c.sum()


def test_inputs_of_one_row_are_proved_together(tmp_path: Path) -> None:
    model, (a, b, c) = Apart().eval(), torch.randn(3, 3, 5)
    samples = {"a": a[:2], "b": b[:2], "c": c[:2]}
    fast = accelerate(model, target="ort", sample_inputs=samples, budget=2, cache_dir=tmp_path)
    for found, want in zip(fast(a, b[:1], c), model(a, b[:1], c), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"batch|as at"):
        fast(a[:1], b[:1], c)


class Counted(torch.nn.Module):
    """Takes no labels of which none counts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z, keep = self.head(x), labels != -100
        return z, torch.nn.functional.cross_entropy(z[keep], labels[keep]), z[keep].max()


def test_labels_are_refused_where_eager_needs_one_that_counts(tmp_path: Path) -> None:
    model, x, labels = Counted().eval(), torch.randn(6, 8), torch.tensor([0, -100, 1, 2, -100, 1])
    fast = accelerate(model, target="ort", sample_inputs={"x": x, "labels": labels}, budget=2, cache_dir=tmp_path)
    for found, want in zip(fast(x, labels), model(x, labels), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="or -100 beside such, got -100"):
        fast(x, torch.full_like(labels, -100))


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_labels_that_no_loss_counts(target: str, tmp_path: Path) -> None:
    model = BertForTokenClassification(_config()).eval()
    labels = IDS % 3
    some, none = labels.clone(), torch.full_like(labels, -100)
    some[:, 4:] = -100
    for sample in (labels, some):
        samples = {"input_ids": IDS, "labels": sample}
        fast = accelerate(model, target=target, sample_inputs=samples, budget=2, cache_dir=tmp_path, precision="fp32")
        for given in (labels, some, some, none):
            want = model(input_ids=IDS, labels=given).loss
            found = fast(input_ids=IDS, labels=given).loss
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4, equal_nan=True, check_dtype=False)
        for wrong in (-1, -99, 3):
            with pytest.raises(InputError, match=f"expected values from 0 to 2, or -100, got {wrong}"):
                fast(input_ids=IDS, labels=some.masked_fill(some == 0, wrong))


def _queries() -> OwlViTForObjectDetection:
    edges = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    text = {**edges, "vocab_size": 100, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 99}
    config = OwlViTConfig(
        text_config=text, vision_config={**edges, "image_size": 32, "patch_size": 8}, projection_dim=32
    )
    return OwlViTForObjectDetection(config).eval()


@pytest.mark.parametrize("is_given", [True, False])
def test_several_queries_of_a_picture(is_given: bool, tmp_path: Path) -> None:
    model = _queries()
    ids = torch.cat([IDS, IDS.flip(1)])
    pictures = torch.randn(3, 3, 32, 32)
    samples = {"input_ids": ids[:2], "pixel_values": pictures[:1], "attention_mask": torch.ones_like(ids[:2])}
    fast = accelerate(model, target="ort", sample_inputs=samples if is_given else None, budget=2, cache_dir=tmp_path)
    for queries, count in ((2, 1), (4, 2), (3, 3), (6, 3), (1, 1)):
        call = {"input_ids": ids[:queries], "pixel_values": pictures[:count]}
        call["attention_mask"] = torch.ones_like(call["input_ids"])
        torch.testing.assert_close(fast(**call).logits, model(**call).logits, rtol=1e-3, atol=1e-3)


def test_an_axis_that_two_inputs_move_has_a_name_of_its_own(tmp_path: Path) -> None:
    """A check of the answer's lengths would refuse right answers."""
    fast = accelerate(_queries(), target="ort", budget=2, cache_dir=tmp_path)
    shapes = {spec.name: spec.shape for spec in fast.manifest.outputs}
    assert shapes["logits"] == ("media_batch", 16, "logits.axis2")
