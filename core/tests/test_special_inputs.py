"""Inputs beyond texts, pictures and sounds are derived from the configuration, and the eager model runs on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    InformerConfig,
    InformerForPrediction,
    LukeConfig,
    LukeForEntityClassification,
    LukeForEntitySpanClassification,
    LukeModel,
    NystromformerConfig,
    NystromformerForSequenceClassification,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SwinConfig,
    TapasConfig,
    TapasModel,
    TimeSeriesTransformerConfig,
    TimeSeriesTransformerForPrediction,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.verify.reference import reference_cases

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
TEXT = {"input_ids", "attention_mask", "token_type_ids"}
ENTITIES = {"entity_ids", "entity_attention_mask", "entity_position_ids"}
SERIES = {
    "past_values",
    "past_time_features",
    "past_observed_mask",
    "static_categorical_features",
    "future_values",
    "future_time_features",
}
LAGGED = {
    "prediction_length": 5,
    "context_length": 12,
    "lags_sequence": [1, 3],
    "num_time_features": 2,
    "num_static_categorical_features": 2,
    "cardinality": [5, 3],
    "embedding_dimension": [4, 4],
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}


def _luke(model_class: Any) -> Any:
    settings = {"vocab_size": 99, "max_position_embeddings": 40, "entity_vocab_size": 20, "entity_emb_size": 16}
    return model_class(LukeConfig(**TINY, **settings, max_mention_length=6))


def _pose() -> Any:
    settings = {"image_size": [64, 48], "patch_size": [16, 16], "num_experts": 3, "part_features": 8}
    backbone = VitPoseBackboneConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, out_indices=[1], **settings
    )
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=5))


def _oneformer() -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = {"image_size": 64, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1, 2, 4, 8], "window_size": 4}
    sizes = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 24, "dim_feedforward": 24}
    counts = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 4, "num_queries": 5}
    text = {"task_seq_len": 9, "text_encoder_width": 32, "text_encoder_context_length": 9, "text_encoder_num_layers": 1}
    return OneFormerForUniversalSegmentation(
        OneFormerConfig(
            backbone_config=SwinConfig(out_features=stages, **swin),
            text_encoder_vocab_size=50,
            **sizes,
            **counts,
            **text,
        )
    )


MODELS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "informer": (lambda: InformerForPrediction(InformerConfig(**LAGGED)), SERIES),
    "two series": (
        lambda: TimeSeriesTransformerForPrediction(TimeSeriesTransformerConfig(**LAGGED, input_size=2)),
        SERIES,
    ),
    "text of luke": (lambda: _luke(LukeModel), TEXT),
    "entities": (lambda: _luke(LukeForEntityClassification), TEXT | ENTITIES),
    "spans": (
        lambda: _luke(LukeForEntitySpanClassification),
        TEXT | ENTITIES | {"entity_start_positions", "entity_end_positions"},
    ),
    "experts": (_pose, {"pixel_values", "dataset_index"}),
    "patches": (
        lambda: Siglip2VisionModel(Siglip2VisionConfig(**TINY, num_patches=16, patch_size=4)),
        {"pixel_values", "pixel_attention_mask", "spatial_shapes"},
    ),
    "task": (_oneformer, {"pixel_values", "task_inputs"}),
}


def _described(kind: str) -> tuple[Any, ModelSignature]:
    torch.manual_seed(0)
    module = MODELS[kind][0]().eval()
    return module, describe(module, name=kind)


@pytest.mark.parametrize("kind", MODELS)
def test_inputs_are_derived_from_the_configuration(kind: str) -> None:
    module, signature = _described(kind)
    assert {spec.name for spec in signature.inputs} == MODELS[kind][1]
    drawn = [signature.draw(Case(name="drawn", seed=seed)) for seed in (1, 2)]
    for inputs in drawn:
        assert all(np.isfinite(output).all() for output in eager_outputs(module, inputs).values())
    masks = {item.name for item in signature.layout.inputs if item.kind == "mask"}
    assert all(
        not np.array_equal(drawn[0][name], drawn[1][name]) for name in MODELS[kind][1] - masks - {"token_type_ids"}
    )


@pytest.mark.parametrize("kind", ["informer", "spans", "experts", "patches"])
def test_derived_inputs_have_cases_for_a_comparison(kind: str) -> None:
    module, signature = _described(kind)
    names = {case.name for case in reference_cases(module, signature)}
    assert {"no padding", "traced shape, fresh values"} <= names


@pytest.mark.parametrize("kind", ["informer", "two series"])
def test_steps_of_series_that_were_not_observed_are_among_the_cases(kind: str) -> None:
    _, signature = _described(kind)
    observed = signature.draw(Case(name="drawn", padding="left", seed=1))["past_observed_mask"]
    assert observed.dtype == np.float32 and observed[0].all() and not observed[1].all()
    assert not observed[1, 0].any() and observed[1, -1].all()


def test_places_of_entities_lie_in_the_text() -> None:
    _, signature = _described("spans")
    inputs = signature.draw(Case(name="drawn", lengths={"sequence": 7}, seed=1))
    assert inputs["entity_start_positions"].max() < 7 and inputs["entity_position_ids"].max() < 7
    assert (inputs["entity_position_ids"] == -1).any() and (inputs["entity_position_ids"][..., 0] >= 0).all()


def test_patches_of_pictures_are_as_many_as_their_height_and_width_say() -> None:
    _, signature = _described("patches")
    inputs = signature.draw(Case(name="drawn", lengths={"patches": 9}, seed=1))
    grids, kept = inputs["spatial_shapes"], inputs["pixel_attention_mask"].sum(axis=1)
    assert (grids >= 1).all() and (grids.prod(axis=1) <= kept).all() and kept.min() < 9


PIECES: dict[str, tuple[Callable[[], Any], int]] = {
    "chunks": (lambda: BertModel(BertConfig(**TINY, vocab_size=99, chunk_size_feed_forward=5)), 125),
    "segments": (
        lambda: NystromformerForSequenceClassification(
            NystromformerConfig(**TINY, vocab_size=99, segment_means_seq_len=16, num_landmarks=4)
        ),
        16,
    ),
}


@pytest.mark.parametrize("kind", PIECES)
def test_a_text_that_is_cut_into_equal_pieces_has_a_length_that_they_divide(kind: str) -> None:
    make, length = PIECES[kind]
    signature = describe(make().eval(), name=kind)
    assert signature.inputs[0].shape == ("batch", length)


def test_types_of_cells_are_bounded_by_column_and_may_be_left_out() -> None:
    sizes = [3, 8, 9, 2]
    torch.manual_seed(0)
    module = TapasModel(TapasConfig(**TINY, vocab_size=99, type_vocab_sizes=sizes)).eval()
    spec = next(spec for spec in describe(module, name="cells").inputs if spec.name == "token_type_ids")
    assert spec.shape == ("batch", "sequence", 4) and spec.default == "zeros"
    assert spec.columns == tuple((0, size - 1) for size in sizes)
