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
from optimum_core.errors import ArtifactError, OptionError

_WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _convert(directory: Path) -> None:
    directory.mkdir(parents=True)
    pixels = ops.parameter([-1, 3], np.float32, name="pixel_values")
    product = ops.matmul(pixels, ops.constant(_WEIGHTS), False, False)
    product.output(0).set_names({"logits"})
    pixels.output(0).set_names({"pixel_values"})
    openvino.save_model(openvino.Model([product], [pixels], "net"), directory / "openvino_model.xml", False)


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
        assert fast.manifest.task == "image-classification"
        assert fast.config.id2label


def test_an_ir_without_its_weights_is_named(tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    (tmp_path / "theirs" / "openvino_model.bin").unlink()
    with pytest.raises(ArtifactError, match=r"openvino_model\.bin is not beside"):
        load(tmp_path / "theirs")


@pytest.mark.parametrize("asked", [{"precision": "fp32"}, {"shapes": [{"batch": 2}]}, {"task": "feature-extraction"}])
def test_what_only_the_original_could_become_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    _convert(tmp_path / "theirs")
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(OptionError, match=f"{next(iter(asked))}: the directory holds a converted model alone"):
        accelerate(tmp_path / "theirs", target="openvino", cache_dir=tmp_path / "cache", **asked)
