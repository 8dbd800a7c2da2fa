"""The layouts of Optimum and optimum-intel: models that generate are written in them, and opened here again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import ArtifactError
from optimum_core.generation.generator import generator_of
from optimum_core.hardware import detect
from optimum_core.models.backends.onnx_files import release as onnx_release
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder
from optimum_core.testing.encoder_decoders import encoder_decoder, exported_parts
from optimum_core.types import Artifact

_GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")
_IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
_MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


def _check_onnx(place: Path, kind: str) -> None:
    import onnxruntime

    def inputs(name: str) -> list[str]:
        session = onnxruntime.InferenceSession(place / f"{name}.onnx", providers=["CPUExecutionProvider"])
        return [value.name for value in session.get_inputs()]

    assert [(place / f"{name}.onnx_data").is_file() for name in _GRAPHS] == [kind == "whisper"] * 3
    masks = ["encoder_attention_mask"] if kind == "t5" else []
    assert inputs("decoder_model") == ["input_ids", *masks, "encoder_hidden_states"]
    past = [f"past_key_values.0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")]
    later = inputs("decoder_with_past_model")
    assert later[: 5 + len(masks)] == ["input_ids", *masks, *past], "they go by the order"


def _check_ir(place: Path, kind: str) -> None:
    import openvino

    written = openvino.Core().read_model(place / "openvino_decoder_model.xml")
    masks = {"encoder_attention_mask"} if kind == "t5" else set()
    names = {name for port in written.inputs for name in port.get_names()}
    assert names == {"input_ids", "encoder_hidden_states", "beam_idx", *masks}
    written.reshape({port: [-1] * len(port.get_partial_shape()) for port in written.inputs})  # as their classes do


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One of the layouts.

    Attributes:
        exporter: the backend that exports to its format.
        route: the exporter's, for models other than one with keys and values alone.
        keyed: further fields of the export of one with keys and values alone.
        check: looks at the files of an encoder with its decoder.
    """

    target: str
    format: str
    exporter: str
    route: str
    keyed: Mapping[str, str]
    check: Callable[[Path, str], None]

    def write(self, artifact: Artifact, scratch: Path, place: Path) -> None:
        """Write an artifact of ours in this layout."""
        place.mkdir()
        forms = [form for support in manager().supports(detect()).values() for form in support.foreign]
        write = next(form.release for form in forms if (form.format, form.layout) == (self.format, "optimum"))
        assert write is not None
        write(artifact if artifact.parts else generator_of(artifact, scratch), place)


_OPTIMUM = Layout(target="ort", format="onnx", exporter="onnx", route="torchscript", keyed={}, check=_check_onnx)
_INTEL = Layout(
    target="openvino", format="openvino-ir", exporter="openvino", route="module",
    keyed={"route": "module"}, check=_check_ir,
)  # fmt: skip


@pytest.fixture(params=[_OPTIMUM, _INTEL], ids=["optimum", "optimum-intel"])
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


def _same_texts(fast: Any, model: Any, **asked: Any) -> bool:
    """Whether both write the same, greedily and by beams."""
    settings = [{**asked, "do_sample": False, "num_beams": beams} for beams in (1, 3)]
    return all(torch.equal(fast.generate(**item), model.generate(**item)) for item in settings)


def test_a_decoder_of_theirs_generates_as_eager(
    layout: Layout, exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    place, model = tmp_path / "theirs", decoder("llama")
    layout.write(exported("llama", layout.format, **layout.keyed), tmp_path, place)
    for part in (model.config, model.generation_config):
        part.save_pretrained(place)
    with accelerate(place, target=layout.target, cache_dir=tmp_path / "cache") as fast:
        assert fast.can_generate() and "unverified against an original" in repr(fast)
        assert _same_texts(fast, model, input_ids=_IDS, attention_mask=_MASK, max_new_tokens=8)
    (place / "generation_config.json").unlink()
    described = json.loads((place / "config.json").read_text(encoding="utf-8"))  # it says what it is, too
    (place / "config.json").write_text(
        json.dumps({**described, "architectures": ["LlamaForCausalLM"]}), encoding="utf-8"
    )
    with accelerate(place, target=layout.target, cache_dir=tmp_path / "cache") as fast:
        assert _same_texts(fast, model, input_ids=_IDS, attention_mask=_MASK, max_new_tokens=8)


@pytest.mark.parametrize("kind", ["mamba", "falcon_h1"])
def test_states_of_a_fixed_size_have_no_form_there(
    kind: str, layout: Layout, exported: Callable[..., Artifact], tmp_path: Path
) -> None:
    place = tmp_path / "theirs"
    with pytest.raises(ArtifactError, match=r"states of a fixed size(.|\n)*without layout="):
        layout.write(exported(kind, layout.format, route=layout.route), tmp_path, place)
    assert not any(place.iterdir())


@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_an_encoder_and_its_decoder_are_written_and_read(
    kind: str, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_release, "_EXTERNAL_ABOVE", 1000 if kind == "whisper" else 1 << 30)
    parts, place = tmp_path / "parts", tmp_path / "theirs"
    whole = exported_parts(kind, layout.format, parts, exporter=layout.exporter, route=layout.route)
    layout.write(whole, tmp_path, place)
    layout.check(place, kind)
    model = encoder_decoder(kind)
    model.config.architectures = [type(model).__name__]
    for part in (model.config, model.generation_config):
        part.save_pretrained(place)
    given: Any = {"input_ids": _IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    if kind == "whisper":
        given = {"input_features": torch.randn(2, 8, 100)}
    with accelerate(place, target=layout.target, cache_dir=tmp_path / "cache") as fast:
        assert _same_texts(fast, model, **given, min_new_tokens=6, max_new_tokens=6)
