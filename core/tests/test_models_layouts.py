"""Layouts of inputs by name, beside what the configuration says of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BrosConfig,
    BrosModel,
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    LiltConfig,
    LiltModel,
    ParakeetCTCConfig,
    ParakeetForCTC,
    RTDetrConfig,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from optimum_core.models.inputs.facts import Facts
from optimum_core.models.inputs.layouts import alternatives
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.models.signatures.signature import describe

_TEXT: dict[str, Any] = {
    "vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip


def test_frames_of_any_number_have_their_mask() -> None:
    """The configuration's `max_source_positions` bounds other embeddings than Whisper's."""
    config = Wav2Vec2BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        feature_projection_input_dim=8, conv_depthwise_kernel_size=3, num_conv_pos_embeddings=4,
    )  # fmt: skip
    signature = describe(Wav2Vec2BertModel(config).eval(), name="w2v-bert")
    mask = next(spec for spec in signature.inputs if spec.name == "attention_mask")
    assert (mask.shape, mask.default) == (("batch", "frames"), "ones")


def test_bins_of_a_nested_encoder() -> None:
    """Parakeet's configuration has them under `encoder_config`."""
    encoder = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        "num_mel_bins": 24, "conv_kernel_size": 3, "subsampling_conv_channels": 4, "max_position_embeddings": 64,
    }  # fmt: skip
    config = ParakeetCTCConfig(vocab_size=16, pad_token_id=15, encoder_config=encoder)
    signature = describe(ParakeetForCTC(config).eval(), name="parakeet")
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    assert shapes == {"input_features": ("batch", "frames", 24), "attention_mask": ("batch", "frames")}


def test_a_codec_takes_channels_of_sound() -> None:
    config = EncodecConfig(
        hidden_size=16, num_filters=4, num_residual_layers=1, upsampling_ratios=[8, 4], codebook_size=32,
        codebook_dim=16, num_lstm_layers=1, target_bandwidths=[1.5], sampling_rate=3200, audio_channels=2,
        normalize=True,
    )  # fmt: skip
    signature = describe(EncodecModel(config).eval(), name="encodec")
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [("input_values", ("batch", 2, "samples"))]


def test_the_answer_of_a_codec_is_in_whole_steps() -> None:
    """It is as long as the sound only where the steps divide that: a call of 1279 samples gives 1272."""
    config = DacConfig(
        encoder_hidden_size=8, decoder_hidden_size=32, downsampling_ratios=[2, 4], upsampling_ratios=[4, 2],
        n_codebooks=2, codebook_size=32, codebook_dim=4,
    )  # fmt: skip
    outputs = {spec.name: spec for spec in describe(DacModel(config).eval(), name="dac").outputs}
    assert outputs["audio_values"].shape == ("batch", "audio_values.axis1")


def test_films_under_their_other_name() -> None:
    """V-JEPA2 names them, their number of pictures and their size otherwise than the older models of films."""
    config = VJEPA2Config(
        hidden_size=24, num_attention_heads=2, num_hidden_layers=1, crop_size=16, patch_size=8, frames_per_clip=4,
        pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=1, mlp_ratio=1.0,
    )  # fmt: skip
    signature = describe(VJEPA2ForVideoClassification(config).eval(), name="vjepa2")
    (films,) = signature.inputs
    assert (films.name, films.shape) == ("pixel_values_videos", ("batch", 4, 3, "height", "width"))


def test_pictures_have_the_size_of_the_anchors() -> None:
    """RT-DETR with anchors made beforehand takes no other."""
    config = RTDetrConfig(anchor_image_size=[64, 96])
    facts = Facts(class_name="Detector", config=config, parameters=("pixel_values",), main_input="pixel_values")
    lengths = next(alternatives(facts)).lengths
    assert (lengths["height"], lengths["width"]) == (64, 96)


def test_the_mask_of_a_waveform_is_over_its_samples() -> None:
    parameters = "input_features", "attention_mask"
    facts = Facts(class_name="Sound", config=SimpleNamespace(), parameters=parameters, main_input="input_features")
    layout = next(alternatives(facts))
    assert {item.name: item.axes for item in layout.inputs} == dict.fromkeys(parameters, ("batch", "samples"))


def test_frames_of_a_fixed_number_have_no_mask_of_others() -> None:
    config = WhisperConfig(
        vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    signature = describe(WhisperForConditionalGeneration(config).eval(), name="whisper")
    shapes = {spec.name: spec.shape for spec in signature.inputs}
    assert shapes["input_features"] == ("batch", 8, 40)
    assert "attention_mask" not in shapes


@pytest.mark.parametrize("positions", [48, 1024])
def test_boxes_are_drawn_within_the_positions_of_a_page(positions: int) -> None:
    config = LiltConfig(**_TEXT, hidden_size=24, channel_shrink_ratio=2, max_2d_position_embeddings=positions)
    signature = describe(LiltModel(config).eval(), name="lilt")
    assert signature.draw(Case(name="boxes", seed=3))["bbox"].max() < min(positions, 1000)


def test_boxes_in_floats_have_two_corners() -> None:
    """As the forward of BROS documents them; it makes the eight numbers of `dim_bbox` from these."""
    signature = describe(BrosModel(BrosConfig(**_TEXT, hidden_size=64, dim_bbox=8)).eval(), name="bros")
    boxes = next(spec for spec in signature.inputs if spec.name == "bbox")
    assert (boxes.dtype, boxes.shape) == ("float32", ("batch", "sequence", 4))


def test_pictures_have_padding_at_both_edges() -> None:
    """As processors of detectors pad those of a batch to the greatest height and width among them."""
    parameters = "pixel_values", "pixel_mask"
    facts = Facts(class_name="Detector", config=SimpleNamespace(), parameters=parameters, main_input="pixel_values")
    layout = next(alternatives(facts)).pinned("height", 40)
    mask = draw(layout, Case(name="padded", lengths={"width": 32}, seed=3))["pixel_mask"]
    assert mask.shape == (2, 40, 32)
    assert mask[0].all()
    assert mask[1, 0].sum() in range(16, 32)
    assert mask[1, :, 0].sum() in range(20, 40)
    assert mask[1].sum() == mask[1, 0].sum() * mask[1, :, 0].sum()
