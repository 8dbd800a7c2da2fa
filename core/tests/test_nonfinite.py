"""NaN and infinity in a call: refused where a runtime may make an answer of them, taken where eager was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import accelerate, load
from optimum_core.errors import InputError
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.types import TensorSpec

FLOATS = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 5))
VALUES = (float("nan"), float("inf"), float("-inf"))
BOTH = np.array([[[1.0] * 5, [np.inf] * 5, [-np.inf] * 5]], "float32")


class Rectified(torch.nn.Module):
    """OpenVINO makes zeros of NaN here; so does ONNX Runtime's pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.max_pool1d(torch.relu(self.linear(x)), 2)


class Masked(torch.nn.Module):
    """Attention with a mask of the user's own, added to the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        made = self.linear(x)
        attended: torch.Tensor = (made @ made.transpose(1, 2) + mask).softmax(dim=-1) @ made
        return attended


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        torch.as_tensor,
        lambda x: x.astype("float16"),
        lambda x: torch.as_tensor(x).double(),
        lambda x: np.asarray(x.T, order="C").T,
        lambda x: x.tolist(),
    ],
)
def test_of_any_kind(value: float, kind: Callable[[Any], Any]) -> None:
    x = np.ones((2, 3, 5), "float32")
    checker = InputChecker("model 'm'", (FLOATS,))
    for _ in range(2):
        checker.bind((), {"x": kind(x)})
        x[1, 2, 4] = value
        with pytest.raises(InputError, match=r"'x' holds NaN or infinity(.|\n)*sample_inputs"):
            checker.bind((), {"x": kind(x)})
        with pytest.raises(InputError, match="NaN or infinity"):
            checker.check({"x": np.asarray(x)})
        x[1, 2, 4] = 0.0


def test_the_greatest_floats_and_no_floats_are_neither() -> None:
    checker = InputChecker("m", (FLOATS,))
    greatest = np.finfo(np.float32).max
    checker.bind((), {"x": np.full((2, 3, 5), greatest)})
    checker.bind((), {"x": np.full((2, 3, 5), -greatest)})
    checker.bind((), {"x": np.zeros((0, 3, 5), "float32")})


def test_both_infinities_and_a_scalar(recwarn: pytest.WarningsRecorder) -> None:
    specs = (FLOATS, TensorSpec(name="scale", dtype="float32", shape=()))
    checker = InputChecker("m", specs)
    checker.bind((), {"x": np.ones((1, 3, 5), "float32"), "scale": torch.tensor(2.0)})
    with pytest.raises(InputError, match="'x' holds"):
        checker.bind((), {"x": BOTH, "scale": torch.tensor(2.0)})
    with pytest.raises(InputError, match="'scale' holds"):
        checker.bind((), {"x": np.ones((1, 3, 5), "float32"), "scale": torch.tensor(torch.inf)})
    assert not recwarn.list


def test_tensors_of_a_device_are_looked_at_there() -> None:
    class OnDevice(torch.Tensor):
        device = torch.device("cuda:0")

    checker = InputChecker("m", (FLOATS,), on_host=False)
    checker.bind((), {"x": torch.ones(1, 3, 5).as_subclass(OnDevice)})
    with pytest.raises(InputError, match="NaN or infinity"):
        checker.bind((), {"x": torch.from_numpy(BOTH).as_subclass(OnDevice)})


@pytest.mark.parametrize("target", ["ort", "openvino"])
def test_a_runtime_is_not_asked(target: str, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(target, target))
    x = torch.randn(2, 8)
    with accelerate(Rectified(), sample_inputs=(x,), target=target, budget=0, cache_dir=tmp_path) as fast:
        for value in VALUES:
            x = torch.randn(2, 8)
            fast(x)
            fast(x)  # from now on, calls like this one take the short way
            x[0, 3] = value
            with pytest.raises(InputError, match="NaN or infinity"):
                fast(x)
            with pytest.raises(InputError, match="NaN or infinity"):
                fast.map([{"x": x[0].numpy()}], progress=False)


def test_a_model_that_stays_eager_says_what_eager_says(tmp_path: Path) -> None:
    module, x = Rectified(), torch.randn(2, 8)
    with accelerate(module, sample_inputs=(x,), target="torch", budget=0, cache_dir=tmp_path) as fast:
        for value in VALUES:
            x[0, 3] = value
            torch.testing.assert_close(fast(x), module(x), equal_nan=True)


def test_what_the_samples_hold_a_call_may_hold(tmp_path: Path) -> None:
    module, x, mask = Masked(), torch.randn(2, 5, 8), torch.zeros(2, 5, 5)
    mask[:, :, 3:] = float("-inf")
    samples = {"x": x, "mask": mask}
    with accelerate(module, sample_inputs=samples, target="ort", budget=0, cache_dir=tmp_path / "cache") as fast:
        assert {spec.name: spec.nonfinite for spec in fast.manifest.inputs} == {"x": False, "mask": True}
        assert fast.manifest.inputs[1].shape[0] == "batch"  # varied as other masks are
        mask[1, 2, 1] = float("-inf")
        torch.testing.assert_close(fast(x, mask), module(x, mask))
        fast.save_pretrained(tmp_path / "saved")
    with load(tmp_path / "saved") as loaded:
        torch.testing.assert_close(loaded(x, mask), module(x, mask))
        with pytest.raises(InputError, match="'x' holds NaN"):
            loaded(x * float("nan"), mask)
