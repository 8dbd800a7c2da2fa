"""Pictures and sounds as a model's inputs, one item each, through the processor of transformers that the model has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import InputError, UnavailableError

#: The kinds of `medium_of`.
MEDIA = frozenset({"picture", "sound"})
#: Keys of one sound, as the package `datasets` gives it.
_ARRAY, _RATE = "array", "sampling_rate"


def medium_of(item: Any) -> str | None:
    """Return "picture" for a PIL picture or 8-bit values [height, width, channels], "sound" for floats [samples] or
    a mapping with `array` and `sampling_rate`; None for anything else."""
    if hasattr(item, "tobytes") and hasattr(item, "mode") and hasattr(item, "size"):
        return "picture"
    if isinstance(item, Mapping):
        return "sound" if {_ARRAY, _RATE} <= set(item) else None
    shape, kind = getattr(item, "shape", None), str(getattr(item, "dtype", ""))
    if shape is not None and len(shape) == 3 and kind == "uint8":
        return "picture"
    return "sound" if shape is not None and len(shape) == 1 and kind.startswith("float") else None


class MediaReader:
    """Encoder of pictures or sounds by a processor.

    Args:
        who: the model, for errors.
        processor: an image processor or feature extractor, or a processor that has one.
        names: inputs of the model.
    """

    def __init__(self, who: str, processor: Any, names: Iterable[str]) -> None:
        self._who = who
        self._pictures = getattr(processor, "image_processor", processor)
        self._sounds = getattr(processor, "feature_extractor", processor)
        self._names = frozenset(names)

    def reads(self, medium: str) -> bool:
        """Whether the processor is one of pictures, or of sounds."""
        part, mark = (self._pictures, "image_mean") if medium == "picture" else (self._sounds, "sampling_rate")
        return hasattr(part, mark)

    def read(self, item: Any, number: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return the inputs of one picture or sound, without the batch axis.

        Args:
            number: of the item, from 1, for errors.

        Raises:
            InputError: the processor refuses the item, or makes no input of the model.
        """
        try:
            made = self._sound(item) if medium_of(item) == "sound" else self._pictures(images=item, return_tensors="np")
        except Exception as error:
            raise InputError(self._who, f"item {number} is refused by its processor: {error}", "convert it") from error
        found = {name: np.asarray(value)[0] for name, value in made.items() if name in self._names}
        if not found:
            why = f"its processor makes {', '.join(made)} of item {number}, and none is an input"
            raise InputError(self._who, why, f"pass inputs by name: {', '.join(sorted(self._names))}")
        return found

    def _sound(self, item: Any) -> Mapping[str, Any]:
        values, rate = (item[_ARRAY], item[_RATE]) if isinstance(item, Mapping) else (item, self._sounds.sampling_rate)
        made: Mapping[str, Any] = self._sounds(np.asarray(values), sampling_rate=rate, return_tensors="np")
        return made


def media_reader(who: str, processor: Any, directory: Path, names: Iterable[str], medium: str) -> MediaReader:
    """Return an encoder by the processor passed or the one beside the model.

    Args:
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
    reader = MediaReader(who, processor, names)
    if not reader.reads(medium):
        raise UnavailableError(
            who, f"no processor of {medium}s lies beside it", "pass processor=, or inputs by name instead"
        )
    return reader
