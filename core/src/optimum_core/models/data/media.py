"""Pictures and sounds as a model's inputs, one item each, through the processor of transformers that the model has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import InputError, UnavailableError
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import Arrays, NDArray

#: The kinds of `medium_of`.
MEDIA = frozenset({"picture", "sound"})
#: Keys of one sound, as the package `datasets` gives it.
_ARRAY, _RATE = "array", "sampling_rate"
#: Numbers of channels of a picture: grey, colours, colours with alpha; and PIL's modes of as many.
_CHANNELS = (1, 3, 4)
_MODES: Mapping[int | str, str] = {1: "L", 4: "RGBA"}


def medium_of(item: Any) -> str | None:
    """Return "picture" or "sound", or None for anything else.

    Pictures are those of PIL, 8-bit values [height, width] or [height, width, channels], or a row of a data set with
    one as "image"; sounds are floats or 16-bit integers [samples], a mapping with `array` and `sampling_rate`, or a row
    with one as "audio".
    """
    if _is_pil(item):
        return "picture"
    if isinstance(item, Mapping):
        if _is_pil(item.get("image")):
            return "picture"
        return "sound" if _is_recording(item) or _is_recording(item.get("audio")) else None
    if isinstance(item, list | tuple):
        return "sound" if item and isinstance(item[0], float) else None
    axes, kind = len(getattr(item, "shape", ())), str(getattr(item, "dtype", "")).removeprefix("torch.")
    if axes in (2, 3) and kind == "uint8":
        return "picture"
    return "sound" if axes == 1 and (kind.startswith("float") or kind == "int16") else None


def _is_pil(item: Any) -> bool:
    return hasattr(item, "tobytes") and hasattr(item, "mode") and hasattr(item, "size")


def _is_recording(item: Any) -> bool:
    return isinstance(item, Mapping) and {_ARRAY, _RATE} <= set(item)


class MediaReader:
    """Encoder of pictures or sounds by a processor.

    Args:
        who: the model, for errors.
        processor: an image processor or feature extractor, or a processor that has one.
        inputs: of the model.
        least: the smallest number of samples of a sound of which the model makes something.
    """

    def __init__(self, who: str, processor: Any, inputs: Sequence[TensorSpec], least: int = 1) -> None:
        self._who = who
        self._pictures = getattr(processor, "image_processor", processor)
        self._sounds = getattr(processor, "feature_extractor", processor)
        self._names = frozenset(spec.name for spec in inputs)
        self._channels = next((spec.shape[1] for spec in inputs if len(spec.shape) == 4), 3)
        self._least = least

    def reads(self, medium: str) -> bool:
        """Whether the processor is one of pictures, or of sounds."""
        if medium == "sound":
            return hasattr(self._sounds, "sampling_rate")
        return hasattr(self._pictures, "image_mean") or self._is_of_timm

    @property
    def _is_of_timm(self) -> bool:
        """Whether the processor wraps timm's transforms: it takes pictures of PIL alone, and gives tensors of torch."""
        return hasattr(self._pictures, "val_transforms")

    def check(self, item: Any, number: int) -> None:
        """Refuse a picture or sound that the model does not take, as far as that shows before it is processed.

        Args:
            number: of the item, from 1.

        Raises:
            InputError: it has other axes, another rate, or too few samples.
        """
        wrong = self._wrong_sound(item) if medium_of(item) == "sound" else self._wrong_picture(item)
        if wrong is not None:
            raise InputError(self._who, f"item {number} {wrong[0]}", wrong[1])

    def read(self, item: Any, number: int) -> Arrays:
        """Return the inputs of one picture or sound, without the batch axis.

        Args:
            number: of the item, from 1, for errors.

        Raises:
            InputError: the processor refuses the item, or makes no input of the model.
        """
        self.check(item, number)
        try:
            made = self._sound(item) if medium_of(item) == "sound" else self._picture(item)
        except Exception as error:
            raise InputError(self._who, f"item {number} is refused by its processor: {error}", "convert it") from error
        found = {name: np.asarray(value)[0] for name, value in made.items() if name in self._names}
        if not found:
            why = f"its processor makes {', '.join(made)} of item {number}, and none is an input"
            raise InputError(self._who, why, f"pass inputs by name: {', '.join(sorted(self._names))}")
        return found

    def _wrong_sound(self, item: Any) -> tuple[str, str] | None:
        try:
            values, rate = _samples(item)
        except Exception as error:  # noqa: BLE001 - arrays of other packages raise errors of any type
            return f"is no array: {error}", "pass a numpy array [samples]"
        if rate is not None and rate != self._sounds.sampling_rate:
            return f"has {rate} samples a second, and the model takes {self._sounds.sampling_rate}", "resample it"
        if values.ndim != 1:
            return f"is {list(values.shape)}, and a sound is [samples]", "pass one channel, or their mean"
        if len(values) < self._least:
            return f"has {len(values)} samples, and the model needs {self._least}", "leave it out, or pad it with zeros"
        return None

    def _wrong_picture(self, item: Any) -> tuple[str, str] | None:
        picture = _picture_in(item)
        if _is_pil(picture):
            if picture.mode[0] not in "IF":
                return None
            return f"has mode {picture.mode!r}, of more than 8 bits", "scale its values to 0…255, then convert('RGB')"
        shape = list(picture.shape)
        if 0 in shape or (len(shape) == 3 and shape[2] not in _CHANNELS):
            remedy = (
                "move the channels: picture.transpose(1, 2, 0)" if shape[0] in _CHANNELS else "pass 1, 3 or 4 of them"
            )
            return f"is {shape}, and a picture is [height, width, channels]", remedy
        return None

    def _sound(self, item: Any) -> Mapping[str, Any]:
        values, rate = _samples(item)
        made: Mapping[str, Any] = self._sounds(
            values, sampling_rate=rate or self._sounds.sampling_rate, return_tensors="np"
        )
        return made

    def _picture(self, item: Any) -> Mapping[str, Any]:
        picture, form = _picture_in(item), {}
        if _is_pil(picture):
            picture = _upright(picture).convert(_MODES.get(self._channels, "RGB"))
        if self._channels not in (1, 4) and (not _is_pil(picture) or min(picture.size) in _CHANNELS):
            picture, form = _colours(np.asarray(picture)), {"input_data_format": "channels_last"}
        if self._is_of_timm:
            from PIL import Image

            images = picture if _is_pil(picture) else Image.fromarray(picture)
            return {name: np.asarray(value) for name, value in self._pictures(images=images).items()}
        made: Mapping[str, Any] = self._pictures(images=picture, return_tensors="np", **form)
        return made


def _upright(picture: Any) -> Any:
    """Return a picture as a viewer shows it: cameras store how they were held, and transformers' pipelines turn it."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


def _picture_in(item: Any) -> Any:
    return item["image"] if isinstance(item, Mapping) else item


def _samples(item: Any) -> tuple[NDArray, Any]:
    """Return the samples of a sound, floats from -1 to 1 of 16-bit integers, and its rate where it states one."""
    if isinstance(item, Mapping):
        item = item if _is_recording(item) else item["audio"]
    values, rate = (item[_ARRAY], item[_RATE]) if isinstance(item, Mapping) else (item, None)
    values = np.asarray(values)
    return (values.astype(np.float32) / 32768 if values.dtype == np.int16 else values), rate


def _colours(values: NDArray) -> NDArray:
    """Return three channels of grey values, or of colours with or without alpha, which is left out as PIL does."""
    grey = values[..., None] if values.ndim == 2 else values
    return np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey[..., :3]


def _least_samples(directory: Path) -> int:
    """Return the number of samples that one frame is made of, by the convolutions that `config.json` states."""
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kernels, strides = (config.get(f"conv_{name}") for name in ("kernel", "stride"))
    least = 1
    if isinstance(kernels, list) and isinstance(strides, list):
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            least = (least - 1) * stride + kernel
    return least


def media_reader(who: str, processor: Any, directory: Path, inputs: Sequence[TensorSpec], medium: str) -> MediaReader:
    """Return an encoder by the processor passed or the one beside the model.

    Args:
        inputs: of the model.
        medium: "picture" or "sound".

    Raises:
        UnavailableError: there is no processor for it, or transformers, which reads it, is not installed.
    """
    if processor is None:
        if find_spec("transformers") is None:
            why = f"transformers, which reads processors of {medium}s, is not installed"
            raise UnavailableError(who, why, "pip install transformers, or pass inputs by name")
        from optimum_core.models.pretrained import read_media_processor

        processor = read_media_processor(directory, medium)
    reader = MediaReader(who, processor, inputs, _least_samples(directory) if medium == "sound" else 1)
    if not reader.reads(medium):
        raise UnavailableError(
            who, f"no processor of {medium}s lies beside it", "pass processor=, or inputs by name instead"
        )
    return reader
