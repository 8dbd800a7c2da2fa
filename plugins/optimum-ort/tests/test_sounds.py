"""A model of sound with text on ONNX Runtime."""

from __future__ import annotations

from sound_models import SoundTests


class TestSoundsOnOrt(SoundTests):
    backend = "ort"
    kind = "voxtral"
