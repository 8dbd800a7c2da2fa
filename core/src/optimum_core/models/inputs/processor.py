"""Inputs from real data through the model's own processor: they show users' inputs that no rule foresees."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.types.arrays import Arrays, NDArray

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Never in my life have I seen a film this slow, this long, and this sure of itself; I left before the end.",
    "Good.",
)


def processed(processor: Any, names: Iterable[str], beside: Iterable[str] = ()) -> Arrays | None:
    """Return inputs of these names from sentences, a picture and a sound; None if the processor cannot make them.

    Args:
        beside: further names to include if the processor makes them.
    """
    wanted = tuple(names)
    for arguments in _arguments(processor, wanted):
        try:
            made: Mapping[str, Any] = processor(**arguments, return_tensors="np")
        except Exception as error:  # noqa: BLE001 - processors raise errors of any type; other cases remain
            logging.getLogger(__name__).info("processor %s made no sample: %s", type(processor).__name__, error)
            continue
        try:
            arrays = {name: np.asarray(made[name]) for name in (*wanted, *beside) if name in made}
        except ValueError as error:  # rows of unequal length
            logging.getLogger(__name__).info("processor %s made no array: %s", type(processor).__name__, error)
            continue
        arrays = {name: array for name, array in arrays.items() if array.dtype != object}
        if all(name in arrays for name in wanted):
            return arrays
    return None


def own_samples(source: Any) -> Mapping[str, Any] | None:
    """Return inputs of one call that no rule makes: as the graph of a file describes them, or as a processor makes them
    for a model of pictures or sound with text; None: there are none."""
    if source.format is None and (medium := _medium_in_text(source.module())) is not None:
        return asked_about(medium, source.processor)
    found: Mapping[str, Any] | None = source.samples()
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Medium:
    """A medium that stands between the tokens of a text, and the names that processors have for it.

    Attributes:
        part: the part of the processor that prepares it.
        argument: the argument of the processor.
        inputs: inputs of the model, of which there is at least one.
    """

    part: str
    argument: str
    inputs: tuple[str, ...]


#: By the name in `input_modalities`, in chats and in the name of the token.
_MEDIA = {
    "image": _Medium(part="image_processor", argument="images", inputs=("pixel_values",)),
    "audio": _Medium(part="feature_extractor", argument="audio", inputs=("input_features", "input_values")),
}


def _medium_in_text(module: Any) -> str | None:
    """Return what stands between the tokens of a model of transformers that writes text: "image" or "audio"; None: it
    is none that does."""
    config, kinds = getattr(module, "config", None), getattr(module, "input_modalities", ())
    generates = config is not None and getattr(module, "can_generate", bool)()
    if not generates or getattr(config, "is_encoder_decoder", False) or "text" not in kinds:
        return None
    return next((name for name in _MEDIA if name in kinds), None)


def asked_about(medium: str, processor: Any) -> Mapping[str, Any] | None:
    """Return the inputs of a call that asks about a picture or a sound, by the chat template or with the token for it;
    None if the processor makes no such call.

    Args:
        medium: "image" or "audio".
    """
    known = _MEDIA[medium]
    if not all(hasattr(processor, name) for name in (known.part, "tokenizer", "apply_chat_template")):
        return None
    sample = _picture((320, 240)) if medium == "image" else _sound(_rate(processor), 1.0)
    content = [{"type": medium, medium: sample}, {"type": "text", "text": TEXTS[0]}]
    chat = [{"role": "user", "content": content}]
    tokens = {"image": getattr(processor, "image_token", None), "audio": getattr(processor, "audio_token", None)}
    token = tokens[medium]

    def by_template() -> Any:
        arguments = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        return processor.apply_chat_template(chat, **arguments)

    def by_token() -> Any:
        return processor(text=[f"{token} {TEXTS[0]}"], **{known.argument: [sample]}, return_tensors="pt")

    for make in (by_template, by_token) if token is not None else (by_template,):
        try:
            made: Mapping[str, Any] = dict(make())
        except Exception as error:  # noqa: BLE001 - processors raise errors of any type; others remain
            logging.getLogger(__name__).info("processor %s asked nothing: %s", type(processor).__name__, error)
            continue
        if "input_ids" in made and any(name in made for name in known.inputs):
            return without_labels(made)
    return None


def without_labels(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a processor made without labels for training, which PaliGemma's makes for every text."""
    return {name: value for name, value in made.items() if name != "labels"}


def _arguments(processor: Any, names: tuple[str, ...]) -> Iterable[dict[str, Any]]:
    text: dict[str, Any] = {"text": list(TEXTS), "padding": True, "truncation": True} if "input_ids" in names else {}
    if text and _padless(processor):
        text = {"text": list(TEXTS[:1])}
    if "pixel_values" in names:
        pictures = [_picture(size) for size in ((320, 240), (256, 256), (200, 300))]
        yield {**text, "images": pictures[: len(text["text"])] if text else pictures}
        return
    if "input_values" in names or "input_features" in names:
        rate = _rate(processor)
        sounds = [_sound(rate, seconds) for seconds in (1.0, 0.6)]
        yield {"raw_speech": sounds, "sampling_rate": rate, "padding": True}
        yield {"audio": sounds, "sampling_rate": rate, "padding": True}
        yield {"raw_speech": sounds, "sampling_rate": rate}
        return
    if text:
        yield text


def _rate(processor: Any) -> int:
    return int(getattr(getattr(processor, "feature_extractor", processor), "sampling_rate", 16000))


def _padless(processor: Any) -> bool:
    owner = getattr(processor, "tokenizer", processor)
    return getattr(owner, "pad_token", "") is None


def _picture(size: tuple[int, int]) -> Any:
    from PIL import Image

    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 // height, columns * 255 // width, (rows + columns) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _sound(rate: int, seconds: float) -> NDArray:
    time = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * 220 * time) + 0.1 * np.sin(2 * np.pi * 1330 * time)).astype(np.float32)
