"""Inputs and outputs of a model are found by trying it; nothing is known of architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    CLIPImageProcessor,
    DebertaV2Config,
    DebertaV2Model,
    ResNetConfig,
    ResNetModel,
    SplinterConfig,
    SplinterForQuestionAnswering,
)

from optimum_core.errors import OptionError, SourceError
from optimum_core.models.eager.calls import call
from optimum_core.models.inputs.facts import facts_of
from optimum_core.models.inputs.layouts import alternatives
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe, lengths_beside

Described = Callable[[str], tuple[Any, ModelSignature]]
TEXT = ("batch", "sequence")
WORDS = ("batch", "decoder_sequence")

INPUTS: dict[str, dict[str, tuple[tuple[int | str, ...], str | None]]] = {
    "bert": {"input_ids": (TEXT, None), "attention_mask": (TEXT, "ones"), "token_type_ids": (TEXT, "zeros")},
    "roberta": {"input_ids": (TEXT, None), "attention_mask": (TEXT, "ones")},
    "distilbert": {"input_ids": (TEXT, None), "attention_mask": (TEXT, "ones")},
    "gpt2": {"input_ids": (TEXT, None), "attention_mask": (TEXT, "ones")},
    "gpt2 classifier": {"input_ids": ((1, "sequence"), None), "attention_mask": ((1, "sequence"), "ones")},
    "multiple choice": {
        "input_ids": (("batch", "choices", "sequence"), None),
        "attention_mask": (("batch", "choices", "sequence"), "ones"),
        "token_type_ids": (("batch", "choices", "sequence"), "zeros"),
    },
    "vit": {"pixel_values": (("batch", 3, 32, 32), None)},
    "resnet": {"pixel_values": (("batch", 3, "height", "width"), None)},
    "t5": {
        "input_ids": (TEXT, None),
        "attention_mask": (TEXT, "ones"),
        "decoder_input_ids": (WORDS, None),
        "decoder_attention_mask": (WORDS, "ones"),
    },
    "bart": {
        "input_ids": (TEXT, None),
        "attention_mask": (TEXT, "ones"),
        "decoder_input_ids": (WORDS, None),
        "decoder_attention_mask": (WORDS, "ones"),
    },
    "clip": {
        "input_ids": (TEXT, None),
        "pixel_values": (("media_batch", 3, 32, 32), None),
        "attention_mask": (TEXT, "ones"),
    },
    "wav2vec2": {"input_values": (("batch", "samples"), None), "attention_mask": (("batch", "samples"), "ones")},
    "whisper": {
        "input_features": (("batch", 16, 100), None),
        "decoder_input_ids": (WORDS, None),
        "decoder_attention_mask": (WORDS, "ones"),
    },
}

OUTPUTS: dict[str, dict[str, tuple[int | str, ...]]] = {
    "bert": {"logits": ("batch", 5)},
    "roberta": {"logits": ("batch", 5)},
    "distilbert": {"logits": ("batch", "sequence", 5)},
    "gpt2": {"logits": ("batch", "sequence", 120)},
    "gpt2 classifier": {"logits": (1, 3)},
    "multiple choice": {"logits": ("batch", "choices")},
    "vit": {"logits": ("batch", 5)},
    "resnet": {"logits": ("batch", 5)},
    "t5": {"logits": (*WORDS, 120), "encoder_last_hidden_state": (*TEXT, 32)},
    "bart": {"logits": (*WORDS, 120), "encoder_last_hidden_state": (*TEXT, 32)},
    "wav2vec2": {"logits": ("batch", "logits.axis1", 12)},
    "whisper": {"logits": (*WORDS, 120), "encoder_last_hidden_state": ("batch", 50, 32)},
}


@pytest.mark.parametrize("kind", INPUTS)
def test_the_inputs_are_those_that_the_forward_takes(kind: str, described: Described) -> None:
    _, signature = described(kind)
    assert {spec.name: (spec.shape, spec.default) for spec in signature.inputs} == INPUTS[kind]


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_outputs_follow_the_axes_that_decide_them(kind: str, described: Described) -> None:
    _, signature = described(kind)
    assert {spec.name: spec.shape for spec in signature.outputs} == OUTPUTS[kind]


def test_text_and_pictures_have_a_batch_each(described: Described) -> None:
    _, signature = described("clip")
    shapes = {spec.name: spec.shape for spec in signature.outputs}
    assert shapes["logits_per_image"] == ("media_batch", "batch")
    assert shapes["logits_per_text"] == ("batch", "media_batch")
    assert shapes["vision_model_output.last_hidden_state"] == ("media_batch", 17, 32)
    assert shapes["text_model_output.last_hidden_state"] == ("batch", "sequence", 32)


@pytest.mark.parametrize("kind", INPUTS)
def test_traced_lengths_all_differ_and_are_no_special_case(kind: str, described: Described) -> None:
    _, signature = described(kind)
    lengths = [signature.layout.lengths[axis] for axis in signature.axes]
    assert len(set(lengths)) == len(lengths)
    assert min(lengths) > 1
    for axis in signature.axes:
        beside = lengths_beside(signature.layout, axis)
        assert signature.layout.lengths[axis] not in beside
        assert min(beside) >= 1


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_described_is_what_eager_gives_at_other_lengths(kind: str, described: Described) -> None:
    module, signature = described(kind)
    lengths = {axis: lengths_beside(signature.layout, axis)[0] for axis in signature.axes}
    inputs = signature.draw(Case(name="other", lengths=lengths, seed=3))
    from optimum_core.models.eager.outputs import flatten

    outputs = flatten(call(module, inputs))
    assert [spec.name for spec in signature.outputs] == list(outputs)
    for spec in signature.outputs:
        expected = tuple(lengths.get(str(axis), axis) for axis in spec.shape)
        free = [index for index, axis in enumerate(expected) if isinstance(axis, str)]
        shape = tuple(axis if index in free else outputs[spec.name].shape[index] for index, axis in enumerate(expected))
        assert shape == expected
        assert str(outputs[spec.name].dtype) == f"torch.{spec.dtype}"


def test_pinning_fixes_an_axis_in_specs_and_in_what_is_drawn(described: Described) -> None:
    _, signature = described("bert")
    pinned = signature.pinned("sequence", 7)
    assert {spec.shape for spec in pinned.inputs} == {("batch", 7)}
    assert pinned.axes == ("batch",)
    assert {array.shape for array in pinned.draw(Case(name="any", lengths={"sequence": 9, "batch": 4})).values()} == {
        (4, 7)
    }
    assert signature.axes == TEXT


def test_an_explicit_task_wins(tiny: Callable[[str], Any]) -> None:
    assert describe(tiny("vit"), name="x", task="image-feature-extraction").task == "image-feature-extraction"


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"joined": self.linear(left) + right.sum(dim=1, keepdim=True), "left": left}


def _convolutional() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"input": x}, np.asarray])
def test_a_plain_network_is_read_off_its_sample(wrap: Callable[[Any], Any]) -> None:
    signature = describe(_convolutional(), name="cnn", samples=wrap(torch.rand(5, 3, 17, 19)))
    (spec,) = signature.inputs
    assert (spec.name, spec.dtype, spec.shape[0]) == ("input", "float32", "batch")
    assert spec.shape[1] == 3
    assert all(isinstance(axis, str) for axis in spec.shape[2:])
    assert len(set(spec.shape)) == 4
    assert [(out.name, out.shape) for out in signature.outputs] == [("output", ("batch", 4))]
    assert (signature.task, signature.structure.kind) == ("custom", "tensor")


SAMPLES: list[Any] = [
    {"left": torch.rand(3, 6), "right": np.ones((3, 9), dtype=np.float32)},
    (torch.rand(3, 6), torch.rand(3, 9)),
    [torch.rand(3, 6), torch.rand(3, 9)],
]


@pytest.mark.parametrize("samples", SAMPLES, ids=["mapping", "tuple", "list"])
def test_two_inputs_are_named_by_the_forward(samples: Any) -> None:
    signature = describe(Two(), name="two", samples=samples)
    left, right = signature.inputs
    assert (left.name, left.shape) == ("left", ("batch", 6))
    assert (right.name, right.shape[0]) == ("right", "batch")
    assert isinstance(right.shape[1], str)
    assert {out.name: out.shape for out in signature.outputs} == {"joined": ("batch", 4), "left": ("batch", 6)}
    assert (signature.structure.kind, signature.structure.keys) == ("dict", ("joined", "left"))


def test_fresh_values_are_drawn_in_place_of_samples() -> None:
    sample = torch.rand(2, 6)
    signature = describe(torch.nn.Linear(6, 2), name="linear", samples=sample)
    one, two = (signature.draw(Case(name="a", lengths={"batch": 3}, seed=seed))["input"] for seed in (1, 2))
    assert one.shape == two.shape == (3, 6)
    assert one.dtype == np.float32
    assert not np.array_equal(one, two)


def test_samples_also_speak_for_a_model_of_transformers(tiny: Callable[[str], Any]) -> None:
    samples = {"input_ids": torch.ones(1, 8, dtype=torch.long)}
    signature = describe(tiny("bert"), name="bert", samples=samples)
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [("input_ids", TEXT)]


@pytest.mark.parametrize("samples", [{"left": torch.rand(2, 6), "rihgt": torch.rand(2, 9)}, {}])
def test_names_that_the_forward_does_not_take_are_refused(samples: Any) -> None:
    with pytest.raises(OptionError) as caught:
        describe(Two(), name="two", samples=samples)
    assert "left, right" in caught.value.remedy
    assert "rihgt" in caught.value.why if samples else "none" in caught.value.why


@pytest.mark.parametrize("value", ["text", object(), ["a", "b"]], ids=["text", "object", "texts"])
def test_samples_that_are_no_tensors_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="no tensor"):
        describe(Two(), name="two", samples={"left": value})


def test_more_samples_than_the_forward_takes_are_refused() -> None:
    with pytest.raises(OptionError):
        describe(torch.nn.Linear(6, 2), name="linear", samples=(torch.rand(2, 6), torch.rand(2, 6)))


class Unheard(torch.nn.Module):
    """A model with a configuration whose input no rule knows."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        from transformers import PretrainedConfig

        self.config = PretrainedConfig()
        self.fails = fails

    def forward(self, input_ids: torch.Tensor) -> Any:
        if self.fails:
            raise ValueError("wants the moon")
        return input_ids


def test_a_model_that_no_rule_fits_asks_for_samples() -> None:
    with pytest.raises(SourceError, match="wants the moon") as caught:
        describe(Unheard(True), name="unheard")
    assert "sample_inputs" in caught.value.remedy


def test_a_model_without_any_known_input_asks_for_samples() -> None:
    class Odd(Unheard):
        def forward(self, moon: torch.Tensor) -> Any:
            return moon

    with pytest.raises(SourceError) as caught:
        describe(Odd(False), name="odd")
    assert "sample_inputs" in caught.value.remedy


def test_samples_that_do_not_run_say_what_eager_says() -> None:
    with pytest.raises(SourceError, match="mat1 and mat2"):
        describe(torch.nn.Linear(6, 2), name="linear", samples=torch.rand(2, 5))


class Logic(torch.nn.Module):
    """Gives truth values, and takes a mask that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import PretrainedConfig

        self.config = PretrainedConfig(vocab_size=50)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"even": input_ids % 2 == 0}


def test_truth_values_may_come_out() -> None:
    signature = describe(Logic(), name="logic")
    assert [(spec.name, spec.dtype, spec.shape) for spec in signature.outputs] == [("even", "bool", TEXT)]
    assert {spec.name: spec.default for spec in signature.inputs} == {"input_ids": None, "attention_mask": "ones"}


def test_a_mask_may_be_left_out_of_a_model_that_needs_the_end_of_every_text() -> None:
    config = BartConfig(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    signature = describe(BartForSequenceClassification(config).eval(), name="bart")
    assert {spec.name: spec.default for spec in signature.inputs} == {"input_ids": None, "attention_mask": "ones"}


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"size": {"height": 40, "width": 56}}, (40, 56)),
        ({"size": {"shortest_edge": 48}}, (48, 48)),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 32, "width": 40}}, (32, 40)),
        ({"size": 40}, (40, 40)),
    ],
)
def test_pictures_are_as_large_as_the_processor_makes_them(settings: dict[str, Any], shape: tuple[int, int]) -> None:
    processor = CLIPImageProcessor(**{"do_center_crop": False, **settings})
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")  # says nothing of it
    layout = next(iter(alternatives(facts_of(ResNetModel(config), processor))))
    assert (layout.lengths["height"], layout.lengths["width"]) == shape


class _Typing:
    """A tokenizer that makes token types."""

    model_input_names = ("input_ids", "token_type_ids", "attention_mask")


@pytest.mark.parametrize("types", [0, 2])
def test_token_types_that_do_nothing_may_come_and_are_no_input(types: int) -> None:
    config = DebertaV2Config(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, type_vocab_size=types,
    )  # fmt: skip
    signature = describe(DebertaV2Model(config).eval(), name="deberta", processor=_Typing())
    names = [spec.name for spec in signature.inputs]
    assert ("token_type_ids" in names, "token_type_ids" in signature.ignored) == (types > 0, types == 0)


def test_masked_scores_hide_no_effect_of_token_types() -> None:
    """The least float stands where a text is padded, beside scores below ten."""
    config = SplinterConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, type_vocab_size=2,
    )  # fmt: skip
    torch.manual_seed(0)
    signature = describe(SplinterForQuestionAnswering(config).eval(), name="splinter")
    names = [spec.name for spec in signature.inputs]
    assert ("token_type_ids" in names, "token_type_ids" in signature.ignored) == (True, False)


def test_a_cache_that_answers_are_without_is_noted(described: Described) -> None:
    notes = described("gpt2")[1].notes
    assert "answers have no past_key_values: it runs as one forward pass, without a cache" in notes
    assert described("bert")[1].notes == ()
