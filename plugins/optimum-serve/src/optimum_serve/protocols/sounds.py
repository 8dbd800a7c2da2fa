"""Sounds from the bytes of WAV files."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np

from optimum_serve.errors import invalid

#: Seconds of one sound: what attention to all of it takes grows with the square.
_SECONDS = 120


def read_sounds(files: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return WAV files of whole numbers as floats, their channels averaged.

    Raises:
        RequestError: one is none, ends within a sample, or is too long.
    """
    return [_sound(content, number) for number, content in enumerate(files)]


def _sound(content: bytes, number: int) -> dict[str, Any]:
    try:
        with wave.open(io.BytesIO(content)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except Exception:  # noqa: BLE001 - of a file that was altered, `wave` raises errors of many types
        raise invalid(f"file {number} is no WAV file with whole numbers (PCM)") from None
    if width not in (2, 4):
        raise invalid(f"file {number} has {8 * width} bits: 16 or 32 are read")
    if not frames or len(frames) % (width * channels):
        raise invalid(f"file {number} is empty, or ends within a sample: send all of it")
    if rate < 1 or len(frames) // (width * channels) > _SECONDS * rate:
        raise invalid(
            f"file {number} is longer than {_SECONDS} s, or states no rate: send a part of it", "too_large", 413
        )
    values = np.frombuffer(frames, f"<i{width}").reshape(-1, channels).mean(axis=1) / float(2 ** (8 * width - 1))
    return {"array": values.astype(np.float32), "sampling_rate": rate}
