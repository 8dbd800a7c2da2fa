"""Encoder-decoders with their cache in ONNX Runtime: handed from call to call, and in buffers that grow in place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate
from optimum_core.generation.model_session import EncoderDecoderSession
from optimum_core.hardware import detect
from optimum_core.measure import Effort, measuring
from optimum_core.models.decoders.encoder_decoder_generate import host_for
from optimum_core.plugins import manager
from optimum_core.testing.encoder_decoders import described, encoder_decoder, opened_parts
from optimum_core.types import Artifact, Fidelity, OptimizeRequest
from optimum_core.verify import dialogues
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues


def opened(kind: str, level: str | None, folder: Path) -> EncoderDecoderSession:
    def change(artifact: Artifact) -> Artifact:
        if level is None:
            return artifact
        output = folder / "optimized"
        output.mkdir()
        request = OptimizeRequest(
            backend="ort", artifact=artifact, device="cpu", precision="fp32", level=level, output=output,
            hardware=detect(),
        )  # fmt: skip
        return manager().optimize(request)

    return opened_parts(kind, "ort", "onnx", folder / "parts", exporter="onnx", route="torchscript", change=change)


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("t5_gated", None),
        ("bart", "shared_cache"),
        ("m2m_100", None),
        ("whisper", "shared_cache"),
        ("led", None),
        ("switch", None),
    ],
)
def test_families_agree_with_eager(kind: str, level: str | None, tmp_path: Path) -> None:
    """Over whole dialogues, and in the tokens of greedy decoding and of beams. LED pads to its windows, and its own
    cache reads padding as tokens; Switch Transformers sends tokens to some of its experts."""
    session = opened(kind, level, tmp_path)
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    module = encoder_decoder(kind)
    found = with_dialogues(nothing, session.drives, drawn_dialogues(module, described(kind)))
    assert found.passed, found.worst
    if kind == "whisper":
        return
    host = host_for(
        type(module).__name__, kind, session.parts, module.config, lambda: module.generation_config,
        main_input="input_ids",
    )  # fmt: skip
    for beams in (1, 4):
        want, got = (texts(model, beams) for model in (module, host))
        assert torch.equal(got, want)
        assert len(set(want.flatten().tolist())) > 4


def texts(model: Any, beams: int) -> torch.Tensor:
    ids = torch.tensor(np.random.default_rng(3).integers(3, 99, (3, 9)))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    made: torch.Tensor = model.generate(
        ids, attention_mask=mask, num_beams=beams, do_sample=False, max_new_tokens=24, no_repeat_ngram_size=2,
        eos_token_id=None,
    )  # fmt: skip
    return made


def test_the_decoder_is_quantized_and_a_function_of_the_whole_decides(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(dialogues, "GREEDY", 8)
    ids = torch.as_tensor(np.random.default_rng(3).integers(3, 99, (4, 9)))
    asked: Any = {"max_new_tokens": 8, "do_sample": False}
    wanted = encoder_decoder("t5").generate(ids, **asked)

    def alike(model: Any) -> float:
        written = model.generate(ids, **asked)
        return float((written[:, :4] == wanted[:, :4]).float().mean())

    with measuring(Effort(rounds=1, seconds=0.005, steady=math.inf)):
        fast = accelerate(
            encoder_decoder("t5"), target="ort", quantize="weight-only-int8", evaluate=alike, max_drop=0.5,
            shapes=[(1, 8, 4)], cache_dir=tmp_path / "cache", budget=1,
        )  # fmt: skip
    assert fast.report is not None
    (tried,) = fast.report.walk
    assert tried.value is not None and tried.outcome in ("kept", "slow"), tried
    hooks = {name: [step.hook for step in part.steps] for name, part in fast.manifest.parts.items()}
    assert "quantize" not in hooks["encoder"] + hooks["cross"]
    assert ("quantize" in hooks["decoder"]) == (fast.manifest.quantized is not None)
    assert alike(fast) >= 0.5


def test_a_text_takes_no_place_among_the_positions_of_a_decoder_behind_an_encoder(tmp_path: Path) -> None:
    module = encoder_decoder("mbart")
    fast = accelerate(module, target="ort", budget=0, cache_dir=tmp_path / "cache")
    assert fast.room_behind("a text " * 100) == module.config.max_position_embeddings
