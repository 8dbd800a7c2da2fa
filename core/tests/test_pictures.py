"""Models of pictures with text: how they are described, kept in files, and compared with eager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import InputError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.models.decoders.description import NotADecoderError
from optimum_core.models.inputs.processor import asked_about
from optimum_core.models.multimodal.description import describe_pictures, merge_of
from optimum_core.models.multimodal.merge_session import WEIGHTS, EagerMergeSession, read_merge, save_merge
from optimum_core.plugins import PluginManager
from optimum_core.testing.decoders import decoder_of
from optimum_core.testing.pictures import described, picture_inputs, picture_model, picture_rows
from optimum_core.types import Fidelity, Support
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues

NOTHING = Fidelity(precision="fp32", tolerance=1e-3, results=())


def compared(kind: str, drives: Any) -> Fidelity:
    return with_dialogues(NOTHING, drives, drawn_dialogues(picture_model(kind), described(kind)))


# Description.


def test_the_decoder_takes_embeddings_and_what_stands_for_pictures_is_no_text() -> None:
    known = decoder_of(described("llava"))
    assert [spec.name for spec in known.inputs] == ["inputs_embeds", "attention_mask", "position_ids", "logits_to_keep"]
    assert known.inputs[0].shape == ("batch", "sequence", 32)
    assert known.merge is not None and 7 in known.merge.placeholders


def test_positions_may_have_axes_of_time_height_and_width() -> None:
    positions = {spec.name: spec for spec in decoder_of(described("qwen2_vl")).inputs}["position_ids"]
    assert positions.shape == (3, "batch", "sequence")


@pytest.mark.parametrize(
    ("kind", "masks"), [("gemma3", ["full_attention", "sliding_attention"]), ("paligemma", ["all"])]
)
def test_what_sees_the_whole_picture_has_masks_of_pairs(kind: str, masks: list[str]) -> None:
    names = [spec.name for spec in decoder_of(described(kind)).inputs if spec.name.startswith("visible.")]
    assert sorted(names) == [f"visible.{mask}" for mask in masks]


def test_features_that_layers_add_are_inputs_at_all_positions() -> None:
    added = [spec for spec in decoder_of(described("qwen3_vl")).inputs if spec.name.startswith("added.")]
    assert [spec.name for spec in added] == ["added.00", "added.01"]
    assert all(spec.shape == ("batch", "sequence", 32) for spec in added)


def test_a_language_model_that_takes_more_than_embeddings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = picture_model("smolvlm")
    body = type(module.model)
    original = body.forward

    def with_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs, another_stream=torch.ones(1))

    signature = described("smolvlm")
    monkeypatch.setattr(body, "forward", with_features)
    with pytest.raises(NotADecoderError, match="takes more than embeddings: another_stream"):
        describe_pictures(module, signature)


# Comparison with eager.


@pytest.mark.parametrize("kind", ["smolvlm", "qwen2_vl", "paligemma"])
def test_the_parts_write_what_eager_writes(kind: str) -> None:
    merge, decoder = merge_of(picture_model(kind), decoder_of(described(kind)))
    fidelity = compared(kind, merge.before(decoder))
    assert fidelity.passed, fidelity.worst
    names = [result.case for result in fidelity.results]
    assert {"a text behind pictures", "rows of pictures, padded on the left"} <= set(names)


def changed(decoder: Decoder, change: Any) -> Decoder:
    """Return a decoder whose inputs are changed on their way."""
    return Decoder(decoder.session, lambda state: lambda inputs: state.run(change(dict(inputs))))


def without_sight(inputs: dict[str, Any]) -> Mapping[str, Any]:
    for name in [name for name in inputs if name.startswith("visible.")]:
        rows, new, total = inputs[name].shape
        inputs[name] = np.array(np.tril(np.ones((rows, new, total), np.int64), total - new) * inputs[name])
    return inputs


def flat_positions(inputs: dict[str, Any]) -> Mapping[str, Any]:
    inputs["position_ids"] = np.array(np.broadcast_to(inputs["position_ids"][:1], inputs["position_ids"].shape))
    return inputs


def without_features(inputs: dict[str, Any]) -> Mapping[str, Any]:
    return {name: 0 * value if name.startswith("added.") else value for name, value in inputs.items()}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gemma3", without_sight), ("paligemma", without_sight), ("qwen2_vl", flat_positions),
        ("qwen3_vl", without_features),
    ],
)  # fmt: skip
def test_a_decoder_that_does_not_see_the_picture_as_eager_does_is_caught(kind: str, change: Any) -> None:
    merge, decoder = merge_of(picture_model(kind), decoder_of(described(kind)))
    worst = compared(kind, merge.before(changed(decoder, change))).worst
    assert worst is not None and not worst.passed


# Files.


def test_the_merge_is_kept_without_the_language_model(tmp_path: Path) -> None:
    module = picture_model("gemma3")
    assert WEIGHTS in save_merge(module, tmp_path)
    read = read_merge(tmp_path)
    names = [name for name, _ in read.named_parameters()]
    assert any("vision_tower" in name for name in names)
    assert not any("language_model.layers" in name or "lm_head" in name for name in names)
    _, decoder = merge_of(module, decoder_of(described("gemma3")))
    merge = EagerMergeSession(inputs=(), outputs=described("gemma3").outputs, original=read)
    made = merge.run(merge.before(decoder), picture_inputs("gemma3"))
    wanted = module(**picture_inputs("gemma3")).logits.detach().numpy()
    np.testing.assert_allclose(made["logits"], wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_cache_of_another_model_is_refused() -> None:
    """Its original and its decoder would answer in this one's place."""
    module = picture_model("gemma3")
    hosts = []
    for _ in range(2):
        merge, decoder = merge_of(module, decoder_of(described("gemma3")))
        behind = merge.before(decoder)
        hosts.append(partial(merge.host, behind, "fast", None, lambda: module.generation_config))
    cache = hosts[0]()(**picture_inputs("gemma3")).past_key_values
    token = {"input_ids": torch.tensor([[5]]), "past_key_values": cache}
    with pytest.raises(InputError, match="cache of another model"):
        hosts[1](cache)(**token)
    assert hosts[0](cache)(**token).logits.shape[1] == 1


# The accelerated model.


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.mktemp("cache")
    return accelerate(
        picture_model("qwen2_vl"), target="torch", cache_dir=cache, sample_inputs=picture_inputs("qwen2_vl")
    )


def test_a_cache_handed_back_goes_on_behind_the_picture(fast: Any) -> None:
    inputs = picture_rows("qwen2_vl")
    whole = picture_model("qwen2_vl").generate(**inputs, max_new_tokens=8, do_sample=False)
    made = fast.generate(**inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    assert made.sequences.tolist() == whole[:, :-4].tolist()
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 4), value=1)
    further = fast.generate(
        input_ids=made.sequences,
        attention_mask=mask,
        past_key_values=made.past_key_values,
        max_new_tokens=4,
        do_sample=False,
    )
    assert further.tolist() == whole.tolist()


def test_a_call_is_the_originals(fast: Any) -> None:
    inputs, module = picture_inputs("qwen2_vl"), picture_model("qwen2_vl")
    wanted = module(**inputs)
    assert type(fast(**inputs)).__name__ == type(wanted).__name__
    torch.testing.assert_close(fast(**inputs).logits, wanted.logits, rtol=1e-4, atol=1e-4)
    assert isinstance(fast(**inputs, return_dict=False), tuple)
    assert "past_key_values" not in fast(**inputs, use_cache=False)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    np.testing.assert_allclose(fast(**arrays)["logits"], wanted.logits.detach(), rtol=1e-4, atol=1e-4)


def test_without_torch_tensors_it_says_what_to_pass(fast: Any) -> None:
    for given in ("what is this", np.array([[5, 6]])):
        with pytest.raises(UnavailableError, match="return_tensors='pt'"):
            fast.generate(given)


def test_a_cache_of_another_kind_is_refused(fast: Any) -> None:
    from transformers import DynamicCache

    with pytest.raises(InputError, match="past_key_values is a DynamicCache"):
        fast(**picture_inputs("qwen2_vl"), past_key_values=DynamicCache())


def test_a_cache_handed_in_stays_after_a_call_without_one(fast: Any) -> None:
    inputs, token = picture_inputs("qwen2_vl"), {"input_ids": torch.tensor([[5]])}
    cache, other = (fast(**inputs).past_key_values for _ in range(2))
    fast(**token, past_key_values=cache, use_cache=False)
    fast(**token, past_key_values=other)
    assert cache.get_seq_length() == other.get_seq_length() == inputs["input_ids"].shape[1] + 1
    again = [fast(**token, past_key_values=one).logits for one in (cache, other)]
    torch.testing.assert_close(again[0], again[1])


def test_an_eager_one_is_saved_and_loaded(fast: Any, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    inputs = picture_rows("qwen2_vl")
    with load(tmp_path / "out") as loaded:
        made = loaded.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert made.tolist() == fast.generate(**inputs, max_new_tokens=6, do_sample=False).tolist()
    with pytest.raises(UnavailableError, match="cannot be drawn at other lengths"):
        load(tmp_path / "out", retune=True)


def test_a_merge_in_files_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimum_core.generation.model_session import _merge
    from optimum_core.hardware import detect
    from optimum_core.plugins import manager
    from optimum_core.types import Artifact, SessionRequest, Step

    step = Step(hook="export", backend="torch", tool="transformers", version="5", options={})
    part = Artifact(format="torch", path=Path(), files=(), inputs=(), outputs=(), steps=(step,))
    whole = replace(part, parts={"merge": part}, steps=())
    monkeypatch.setattr(PluginManager, "support", lambda self, name, hardware: Support())
    request = SessionRequest(backend="openvino", artifact=whole, device="cpu", hardware=detect())
    with pytest.raises(UnavailableError, match="torch or transformers is not installed"):
        _merge(manager(), request, {})


# Samples.


class Processor:
    """Asks as processors with a token for pictures do."""

    image_processor = tokenizer = object()
    image_token = "<picture>"
    asked: Any = None

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError("there is no template")

    def __call__(self, text: Any, images: Any, return_tensors: str) -> Any:
        self.asked = text
        return {"input_ids": torch.ones((1, 2)), "pixel_values": torch.ones((1, 3, *images[0].size))}


def test_a_processor_without_a_template_asks_with_its_token_for_pictures() -> None:
    processor = Processor()
    made = asked_about("image", processor)
    assert made is not None and made["pixel_values"].shape == (1, 3, 320, 240)
    assert processor.asked[0].startswith("<picture> ")
    assert asked_about("image", object()) is None


@pytest.mark.filterwarnings("ignore:__array__")  # transformers' own
def test_a_processor_that_makes_labels_for_every_text_asks_without() -> None:
    """With labels PaliGemma gives a loss, and was accelerated as one forward pass."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PaliGemmaProcessor, PreTrainedTokenizerFast, SiglipImageProcessor

    own = Tokenizer(models.WordLevel({"[UNK]": 0, "<bos>": 1}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", bos_token="<bos>")
    pictures = SiglipImageProcessor(size={"height": 16, "width": 16})
    vars(pictures)["image_seq_length"] = 4
    processor = PaliGemmaProcessor(pictures, tokenizer)
    assert "labels" in processor(text="<image>What", images=np.zeros((16, 16, 3), np.uint8), return_tensors="pt")
    made = asked_about("image", processor)
    assert made is not None and {"input_ids", "pixel_values"} <= set(made) and "labels" not in made


def test_a_processor_of_sounds_asks_about_a_sound() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

    words = {word: number for number, word in enumerate(["[UNK]", "<pad>", "<|AUDIO|>", "The", "quick", "dog."])}
    own = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="[UNK]", pad_token="<pad>", additional_special_tokens=["<|AUDIO|>"]
    )
    sounds = WhisperFeatureExtractor(feature_size=8, sampling_rate=16000, hop_length=1000, chunk_length=1)
    made = asked_about("audio", Qwen2AudioProcessor(feature_extractor=sounds, tokenizer=tokenizer))
    assert made is not None and made["input_features"].shape == (1, 8, 16)
    assert (made["input_ids"] == 2).sum() == 4  # the places of the sound
