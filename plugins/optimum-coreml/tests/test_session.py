from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from optimum_core.errors import InputError, OptionError, SessionError
from optimum_core.types import Artifact
from optimum_coreml import coremltools_adapter
from optimum_coreml.devices import GRAPH_LEVEL
from optimum_coreml.session import CoreMlSession

Make = Callable[[str], Any]
Exported = Callable[..., Artifact]
Load = Callable[..., CoreMlSession]

WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
PROGRAM = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"


def test_it_says_that_it_is_not_core_ml(exported: Exported, load: Load) -> None:
    opened = load(exported("bert"))
    assert (opened.backend, opened.device, opened.level) == ("coreml", "all:graph", GRAPH_LEVEL)


@pytest.mark.parametrize("file", ["model.mlpackage/Manifest.json", PROGRAM, WEIGHTS])
@pytest.mark.parametrize("damage", ["missing", "truncated", "one bit"])
def test_damaged_files_are_refused(file: str, damage: str, exported: Exported, load: Load, tmp_path: Path) -> None:
    if (file, damage) == (PROGRAM, "one bit"):
        pytest.skip("a program has no checksum of its own; the manifest of a saved artifact has one")
    folder = tmp_path / "copy"
    shutil.copytree(exported("bert").path, folder)
    path = folder / file
    whole = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        whole[len(whole) // 2] ^= 128
        path.write_bytes(whole)
    with pytest.raises(SessionError) as caught:
        load(replace(exported("bert"), path=folder))
    assert caught.value.remedy


def test_wrong_inputs(exported: Exported, tiny: Make, load: Load) -> None:
    opened, inputs = load(exported("bert")), dict(tiny("bert").cases[0].inputs)
    with pytest.raises(InputError, match=r"missing: attention_mask; unknown: mask"):
        opened.run({**{k: v for k, v in inputs.items() if k != "attention_mask"}, "mask": inputs["input_ids"]})
    with pytest.raises(InputError, match="cannot be read"):
        opened.run({**inputs, "attention_mask": [1]})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="the program takes"):
        opened.run({**inputs, "attention_mask": inputs["attention_mask"][0]})
    with pytest.raises(SessionError, match="index 120 into an axis of 120"):
        opened.run({**inputs, "input_ids": np.full_like(inputs["input_ids"], 120)})
    with pytest.raises(OptionError, match="unknown device"):
        load(exported("bert"), device="abacus")
    opened.close()
    with pytest.raises(SessionError, match="closed"):
        opened.run(inputs)


def test_another_models_program_is_refused(exported: Exported, load: Load) -> None:
    one, other = exported("bert"), exported("vit")
    with pytest.raises(SessionError, match="the program has no input 'input_ids'"):
        load(replace(other, inputs=one.inputs, outputs=one.outputs))


class _FakeModels:
    """Stands for coremltools on a Mac, to test what is asked of it; Core ML itself is not here."""

    calls: ClassVar[list[tuple[str, Any]]] = []

    class MLModel:
        def __init__(self, path: str, compute_units: str) -> None:
            _FakeModels.calls.append((path, compute_units))

        def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
            assert {array.dtype.name for array in inputs.values()} == {"int32"}
            return {"logits": np.ones((inputs["input_ids"].shape[0], 3), np.float32)}


def test_on_a_mac_core_ml_is_asked(exported: Exported, tiny: Make, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that records what is handed to `MLModel` and `predict`. That Core ML takes it is not proved here."""
    import types

    fake = types.SimpleNamespace(models=_FakeModels, ComputeUnit=types.SimpleNamespace(ALL="all of them"))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(coremltools_adapter, "coremltools", lambda: fake)
    opened = load(exported("bert"))
    assert opened.device == "all"
    assert _FakeModels.calls[-1][1] == "all of them" and _FakeModels.calls[-1][0].endswith("model.mlpackage")
    found = opened.run(tiny("bert").cases[0].inputs)
    assert np.asarray(found["logits"]).dtype == np.float32
