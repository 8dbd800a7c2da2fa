"""Samples rescue models whose inputs no rule draws: placeholders, separators, series; masks of pictures are derived."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from optimum_core.errors import SourceError
from optimum_core.models.eager.calls import call
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe

IMAGE = 120
TEXT = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _llava() -> tuple[Any, dict[str, torch.Tensor]]:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE
    )
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 11, 12, 13, 14]])
    samples = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, 16, 16)}
    return transformers.LlavaForConditionalGeneration(config), samples


def _longformer() -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.LongformerConfig(**TEXT, attention_window=[4], sep_token_id=2)
    ids = torch.tensor([[1, 5, 6, 7, 2, 2, 8, 9, 10, 2], [1, 5, 6, 7, 2, 2, 9, 8, 10, 2]])
    return transformers.LongformerForQuestionAnswering(config), {"input_ids": ids}


def _decision() -> tuple[Any, dict[str, torch.Tensor]]:
    config = transformers.DecisionTransformerConfig(
        state_dim=5, act_dim=3, hidden_size=32, max_ep_len=64, n_layer=1, n_head=4
    )
    widths = {"states": 5, "actions": 3, "rewards": 1, "returns_to_go": 1}
    samples = {name: torch.randn(2, 6, width) for name, width in widths.items()}
    return transformers.DecisionTransformerModel(config), {**samples, "timesteps": torch.arange(6).repeat(2, 1)}


def _described(model: Any, **others: Any) -> tuple[Any, ModelSignature]:
    model = model.eval()
    return model, describe(model, name="tiny", **others)


def test_placeholders_stay_where_they_are_and_the_rest_is_fresh() -> None:
    model, samples = _llava()
    model, signature = _described(model, samples=samples)
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    assert shapes["input_ids"] == ("batch", "sequence")
    assert shapes["pixel_values"] == ("batch", 3, 16, 16)
    case = Case(name="other", lengths={"batch": 3, "sequence": 14}, seed=5)
    inputs = signature.draw(case)
    assert ((inputs["input_ids"] == IMAGE).sum(axis=1) == 4).all()
    assert not np.array_equal(inputs["input_ids"][:, 5:9], samples["input_ids"].numpy()[:, 5:].repeat(3, axis=0))
    assert (inputs["attention_mask"] == 0).any()
    assert (inputs["attention_mask"][inputs["input_ids"] == IMAGE] == 1).all()
    assert call(model, inputs)["logits"].shape == (3, 14, 128)


def test_separators_stay_where_they_are() -> None:
    model, samples = _longformer()
    model, signature = _described(model, samples=samples)
    assert signature.inputs[0].shape == ("batch", "sequence")
    for seed, length in ((3, 10), (4, 17)):
        ids = signature.draw(Case(name="other", lengths={"sequence": length}, seed=seed))["input_ids"]
        assert ((ids == 2).sum(axis=1) == 3).all()
        assert not np.array_equal(ids[:, :10], samples["input_ids"].numpy())


@pytest.mark.parametrize("with_samples", [True, False])
def test_an_input_that_does_nothing_is_accepted_and_left_out(with_samples: bool) -> None:
    model, samples = _decision()
    _, signature = _described(model, samples=samples if with_samples else None)
    assert "rewards" in signature.ignored
    assert {"states", "actions", "returns_to_go", "timesteps"} <= {spec.name for spec in signature.inputs}
    assert {spec.shape[0] for spec in signature.inputs} == {"batch"}


def test_series_are_as_long_as_the_configuration_says() -> None:
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=32, patch_length=8, stride=8, d_model=16, num_hidden_layers=1,
        num_attention_heads=4, ffn_dim=32, prediction_length=6,
    )  # fmt: skip
    model = transformers.PatchTSTForPrediction(config).eval()
    for samples in (None, torch.randn(1, 32, 2)):
        signature = describe(model, name="series", samples=samples)
        assert {spec.name: spec.shape for spec in signature.inputs} == {"past_values": ("batch", 32, 2)}


def _detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=4,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config).eval()


class Pictures:
    """An image processor as far as its names are asked for."""

    model_input_names = ("pixel_values", "pixel_mask")
    size = 64


@pytest.mark.parametrize("processor", [None, Pictures()])
def test_the_mask_of_pictures_is_an_input_and_may_be_left_out(processor: Any) -> None:
    signature = describe(_detr(), name="detr", processor=processor)
    specs = {spec.name: (spec.shape, spec.default) for spec in signature.inputs}
    assert specs == {
        "pixel_values": (("batch", 3, "height", "width"), None),
        "pixel_mask": (("batch", "height", "width"), "ones"),
    }


class Square(torch.nn.Module):
    """Takes pictures of any size that are as high as wide."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels @ pixels).mean(dim=(2, 3))


def test_axes_that_must_stay_equal_vary_together() -> None:
    signature = describe(Square(), name="square", samples=torch.rand(2, 3, 12, 12))
    (spec,) = signature.inputs
    assert spec.shape[0] == "batch"
    assert isinstance(spec.shape[2], str)
    assert spec.shape[2] == spec.shape[3]
    assert signature.layout.stated[spec.shape[2]] == 12


class Rain(transformers.PreTrainedModel):  # type: ignore[misc] # transformers has no types
    """Takes inputs of which no rule knows the names."""

    config_class = transformers.PretrainedConfig
    main_input_name = "rain"

    def forward(self, rain: torch.Tensor, wind: torch.Tensor) -> torch.Tensor:
        return rain + wind


def test_a_main_input_that_no_rule_knows_is_asked_for_by_name() -> None:
    with pytest.raises(SourceError, match="wind") as caught:
        describe(Rain(transformers.PretrainedConfig()).eval(), name="weather")
    assert "sample_inputs={'rain'" in caught.value.remedy


class Blocks(torch.nn.Module):
    """Looks at neighbours whose types are both one, as models do that see a picture's tokens as a block."""

    def __init__(self) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig(vocab_size=50, type_vocab_size=2)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        values = input_ids.float()
        if token_type_ids is not None:
            pairs = token_type_ids[:, 1:] * token_type_ids[:, :-1]
            values = values + pairs.sum(dim=1, keepdim=True)
        return {"values": values}


@pytest.mark.parametrize("given", [("input_ids", "token_type_ids"), ("input_ids",), ()])
def test_types_that_count_in_blocks_alone_are_never_ignored(given: tuple[str, ...]) -> None:
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4]])
    samples = {"input_ids": ids, "token_type_ids": (ids > 5).long()}
    signature = describe(Blocks(), name="blocks", samples={name: samples[name] for name in given} or None)
    assert "token_type_ids" not in signature.ignored
    assert ("token_type_ids" in {spec.name for spec in signature.inputs}) == (given != ("input_ids",))
