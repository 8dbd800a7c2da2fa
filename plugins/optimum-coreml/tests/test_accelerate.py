"""One call, from a model to a checked package on a machine that cannot run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import optimum_core
from optimum_core import accelerate
from optimum_core.errors import OptionError, UnavailableError
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.types import Fidelity

Make = Callable[[str], Any]


def _fidelity(fast: AcceleratedModel) -> Fidelity:
    assert fast.report is not None and fast.report.chosen is not None
    assert fast.report.chosen.fidelity is not None
    return fast.report.chosen.fidelity


def _shapes(fast: AcceleratedModel) -> set[tuple[int, ...]]:
    return {result.shapes["input_ids"] for result in _fidelity(fast).results}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_decoder_with_state(precision: str, tiny: Make, tmp_path: Path) -> None:
    options = {"stateful": True, "context_length": 24}
    fast = accelerate(
        tiny("gpt2").module, target="coreml", precision=precision, options=options, cache_dir=tmp_path / "c"
    )
    fidelity = _fidelity(fast)
    assert (fidelity.passed, fidelity.level) == (True, "graph")
    assert max(length for _, length in _shapes(fast)) == 24, "as far as the state has room, and no further"
    assert {batch for batch, _ in _shapes(fast)} >= {1, 3}
    fast.save_pretrained(tmp_path / "saved")
    again = optimum_core.load(tmp_path / "saved")
    assert [spec.name for spec in again.manifest.inputs] == ["input_ids", "attention_mask"]
    import torch

    with pytest.raises(UnavailableError, match="Core ML runs on macOS only"):
        again(input_ids=torch.ones(1, 4, dtype=torch.int64))


def test_listed_shapes(tiny: Make, tmp_path: Path) -> None:
    """Each of them is compared with eager, and no other."""
    shapes = [{"batch": 1, "sequence": 16}, {"batch": 4, "sequence": 8}]
    fast = accelerate(
        tiny("distilbert features").module,
        target="coreml",
        options={"enumerated_shapes": shapes},
        cache_dir=tmp_path / "c",
    )
    assert _fidelity(fast).passed
    assert _shapes(fast) > {(1, 16), (4, 8)} and len(_shapes(fast)) == 3, "and the traced one"
    with pytest.raises(UnavailableError):
        fast(input_ids=tiny("distilbert features").cases[0].inputs["input_ids"])


def test_bounds_are_kept_to(tiny: Make, tmp_path: Path) -> None:
    made = tiny("distilbert features")
    traced = made.signature.layout.lengths
    bounds = {"batch": traced["batch"], "sequence": traced["sequence"] + 1}
    options = {"upper_bounds": bounds}
    fast = accelerate(made.module, target="coreml", options=options, cache_dir=tmp_path / "c")
    assert max(_shapes(fast)) == (traced["batch"], traced["sequence"] + 1)
    with pytest.raises(OptionError, match="leaves axis 'batch' open"):
        accelerate(
            made.module,
            target="coreml",
            options={"enumerated_shapes": [{"sequence": 5}]},
            cache_dir=tmp_path / "c",
        )
