"""A model of sound with text on OpenVINO."""

from __future__ import annotations

from sound_models import SoundTests


class TestSoundsOnOpenVino(SoundTests):
    backend = "openvino"
    kind = "qwen2_audio"
