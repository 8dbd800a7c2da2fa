"""A directory of optimum-intel opens as it is, and says that nothing was compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from optimum_core import accelerate, load
from optimum_core.backend import detect, overflows
from optimum_core.errors import ArtifactError, OptionError, SourceError

_WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _floats(kind: Any = np.float32) -> Any:
    return ops.constant(_WEIGHTS.astype(kind))


def _widened(kind: str) -> Any:
    """Weights of a narrow type, with the conversion that other packages write behind them."""
    shape, values = openvino.Shape(_WEIGHTS.shape), _WEIGHTS.ravel().tolist()
    narrow = openvino.op.Constant(getattr(openvino.Type, kind), shape, values)
    return ops.multiply(ops.convert(narrow, "f32"), ops.constant(np.ones((1, 2), np.float32)))


def _rounded(value: Any, levels: int = 256) -> Any:
    bounds = [ops.constant(np.float32(bound)) for bound in (-8.0, 7.9375)]
    return ops.fake_quantize(value, *bounds, *bounds, levels)


def _convert(directory: Path, weights: Any = None, *, static: bool = False) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    pixels = ops.parameter([-1, 3], np.float32, name="pixel_values")
    given = _rounded(pixels) if static else pixels
    product = ops.matmul(given, _floats() if weights is None else weights, False, False)
    product.output(0).set_names({"logits"})
    pixels.output(0).set_names({"pixel_values"})
    openvino.save_model(openvino.Model([product], [pixels], "net"), directory / "openvino_model.xml", False)


@pytest.mark.parametrize("kind", ["f16", "bf16", "i8", "u8", "i4", "u4", "nf4", "f8e4m3"])
def test_the_weights_tell_the_scheme(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    _convert(tmp_path / "theirs", _widened(kind))
    names = {"f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "nf4": "nf4"}
    fast = load(tmp_path / "theirs")
    assert fast.manifest.quantized == f"weight-only-{names.get(kind, 'fp8')}"
    assert str(fast.manifest.quantized) in repr(fast)


def test_rounded_activations_tell_the_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    _convert(tmp_path / "theirs", _rounded(_floats()), static=True)
    assert load(tmp_path / "theirs").manifest.quantized == "static-int8"
    _convert(tmp_path / "floats")
    plain = load(tmp_path / "floats")
    assert (plain.manifest.quantized, plain.manifest.precision) == (None, "fp32")


def test_weights_of_all_bits_do_not_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On x86 without VNNI, sums of their products with rounded activations would come out at half of their value."""
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    weights = np.full((64, 8), 127, np.int8)
    weights[:, 1::2] = -127
    (tmp_path / "theirs").mkdir()
    pixels = ops.parameter([-1, 64], np.float32, name="pixel_values")
    pixels.output(0).set_names({"pixel_values"})
    bounds = [ops.constant(np.float32(bound)) for bound in (0, 1)]
    rounded = ops.fake_quantize(pixels, *bounds, *bounds, 256)
    scaled = ops.multiply(ops.convert(ops.constant(weights), "f32"), ops.constant(np.float32(0.01)))
    product = ops.matmul(rounded, scaled, False, False)
    product.output(0).set_names({"logits"})
    openvino.save_model(openvino.Model([product], [pixels], "net"), tmp_path / "theirs" / "openvino_model.xml", False)
    fast, inputs = load(tmp_path / "theirs"), np.random.default_rng(3).uniform(0.9, 1, (3, 64)).astype(np.float32)
    assert fast.manifest.quantized == "static-int8"
    np.testing.assert_allclose(fast(pixel_values=inputs).logits, inputs @ (weights * np.float32(0.01)), rtol=0.01)
    notes = fast.report.notes if fast.report is not None else ()
    assert any("adds 8-bit products in 16 bits" in note for note in notes) == overflows(detect().cpu)


def test_weights_of_a_type_without_a_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    _convert(tmp_path / "theirs", _widened("f4e2m1"))
    with pytest.raises(ArtifactError, match="of the type f4e2m1, which has no name here"):
        load(tmp_path / "theirs")


def test_the_graph_alone_is_a_model_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    _convert(tmp_path)
    for name in ("xml", "bin"):
        (tmp_path / f"openvino_model.{name}").rename(tmp_path / f"net.{name}")
    fast = accelerate(tmp_path / "net.xml")
    assert np.allclose(fast(pixel_values=np.eye(3, dtype=np.float32)).logits, _WEIGHTS)


def test_parts_of_one_model_are_named(tmp_path: Path) -> None:
    _convert(tmp_path)
    for part in ("language", "vision_embeddings"):
        for name in ("xml", "bin"):
            (tmp_path / f"openvino_{part}_model.{name}").write_bytes((tmp_path / f"openvino_model.{name}").read_bytes())
    for name in ("xml", "bin"):
        (tmp_path / f"openvino_model.{name}").unlink()
    with pytest.raises(
        ArtifactError, match=r"openvino_language_model\.xml, openvino_vision_embeddings_model\.xml are parts"
    ):
        accelerate(tmp_path)


@pytest.mark.parametrize("folder", ["", "openvino"])
def test_an_ir_opens_beside_its_configuration(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    _convert(tmp_path / "theirs" / folder)
    described = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": {"0": "a", "1": "b"}}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(described), encoding="utf-8")
    inputs = np.ones((4, 3), dtype=np.float32)
    for fast in (load(tmp_path / "theirs"), accelerate(tmp_path / "theirs", target="openvino")):
        assert np.allclose(fast(pixel_values=inputs)["logits"], inputs @ _WEIGHTS)
        assert "unverified against an original" in repr(fast)
        assert fast.report is not None and "NOT compared" in fast.report.notes[0]
        assert fast.manifest.task == "image-classification"
        assert fast.config.id2label


def test_an_ir_without_its_weights_is_named(tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    (tmp_path / "theirs" / "openvino_model.bin").unlink()
    with pytest.raises(ArtifactError, match=r"openvino_model\.bin is not beside"):
        load(tmp_path / "theirs")


def test_an_ir_without_its_graph_is_no_checkpoint(tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    (tmp_path / "theirs" / "openvino_model.xml").unlink()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(SourceError, match=r"holds the weights of OpenVINO IR without its \.xml"):
        accelerate(tmp_path / "theirs")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_of_a_pair_is_no_model(part: str, tmp_path: Path) -> None:
    _convert(tmp_path)
    for name in ("xml", "bin"):
        (tmp_path / f"openvino_model.{name}").rename(tmp_path / f"openvino_{part}_model.{name}")
    with pytest.raises(ArtifactError, match=rf"coder_model\.xml is not beside openvino_{part}_model\.xml"):
        accelerate(tmp_path)


@pytest.mark.parametrize("asked", [{"precision": "fp32"}, {"shapes": [{"batch": 2}]}])
def test_what_only_the_original_could_become_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(OptionError, match=f"{next(iter(asked))}: the directory holds a converted model alone"):
        accelerate(tmp_path / "theirs", target="openvino", cache_dir=tmp_path / "cache", **asked)


def test_a_task_that_it_is_not_for_is_refused(tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.json"
    config.write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(OptionError, match=r"nothing tells that 'theirs' .OpenVINO IR. is for it"):
        accelerate(tmp_path / "theirs", task="image-classification", cache_dir=tmp_path / "cache")
    described = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": {"0": "a", "1": "b"}}
    config.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(OptionError, match="is a ViTForImageClassification, for image-classification"):
        accelerate(tmp_path / "theirs", task="text-classification", cache_dir=tmp_path / "cache")
    fast = accelerate(tmp_path / "theirs", task="image-classification", cache_dir=tmp_path / "cache")
    assert fast.task == "image-classification"


@pytest.mark.parametrize("view", ["input", "reshaped"])
def test_an_output_that_is_an_input_leaves_the_callers_array_alone(
    view: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "theirs").mkdir()
    pixels = ops.parameter([-1, -1, 4], np.float32, name="pixels")
    pixels.output(0).set_names({"pixels"})
    same = ops.convert(pixels, "f32") if view == "input" else ops.reshape(pixels, np.array([0, -1], np.int64), True)
    same.output(0).set_names({"same"})
    more = ops.matmul(pixels, np.ones((4, 4), np.float32), False, False)
    more.output(0).set_names({"more"})
    openvino.save_model(
        openvino.Model([same, more], [pixels], "net"), tmp_path / "theirs" / "openvino_model.xml", False
    )
    fast, before = load(tmp_path / "theirs"), None
    for number in range(12):
        array = np.full((3 + number % 2 * 6, 9, 4), float(number), np.float32)
        assert (fast(pixels=array).same == number).all()
        assert before is None or (before == number - 1).all()
        before = array


@pytest.mark.parametrize("name", ["openvino_model.xml", "openvino_model.bin"])
def test_a_pointer_of_git_lfs_is_named(name: str, tmp_path: Path) -> None:
    _convert(tmp_path)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    (tmp_path / name).write_text(pointer, encoding="utf-8")
    with pytest.raises(SourceError, match=r"git-lfs"):
        load(tmp_path)
