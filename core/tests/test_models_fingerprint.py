"""Equal models have equal fingerprints; whatever changes what is computed changes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.models import fingerprint, pretrained
from optimum_core.models.sources.source import open_source
from scaled_module import Scaled

Tiny = Callable[[str], Any]

#: Torch warns of the layouts of its tensors as they are made.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(The PyTorch API of nested|Sparse ):UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


def _other_code() -> type[torch.nn.Module]:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.factor = 2.0
            torch.nn.init.ones_(self.linear.weight)
            torch.nn.init.zeros_(self.linear.bias)

        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(x) + self.factor

    return Scaled


def _from_console(operator: str) -> torch.nn.Module:
    """A class for which there is no source, as one typed at a prompt."""
    namespace: dict[str, Any] = {"torch": torch, "__name__": "console"}
    code = f"class Own(torch.nn.Module):\n    def forward(self, x):\n        return x {operator} 2\n"
    exec(compile(code, "<no file>", "exec"), namespace)
    made: torch.nn.Module = namespace["Own"]()
    return made


def test_equal_models_are_equal(tiny: Tiny) -> None:
    one, two = tiny("bert"), tiny("bert").train()
    assert open_source(one).fingerprint == open_source(two).fingerprint
    assert fingerprint.of_module(Scaled()) == fingerprint.of_module(Scaled())


def test_one_changed_weight_shows(tiny: Tiny) -> None:
    model = tiny("bert")
    before = fingerprint.of_module(model)
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    assert fingerprint.of_module(model) != before


def test_a_changed_buffer_shows(tiny: Tiny) -> None:
    model = tiny("resnet")
    before = fingerprint.of_module(model)
    next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean"))[0] = 0.5
    assert fingerprint.of_module(model) != before


def test_weights_of_another_dtype_or_place_show() -> None:
    made = {fingerprint.of_module(module) for module in (Scaled(), Scaled().double(), torch.nn.Sequential(Scaled()))}
    assert len(made) == 3


def test_a_changed_setting_shows(tiny: Tiny) -> None:
    model = tiny("bert")
    before = fingerprint.of_module(model)
    model.config.layer_norm_eps = 1e-3
    assert fingerprint.of_module(model) != before


def test_a_plain_attribute_shows() -> None:
    assert fingerprint.of_module(Scaled(2.0)) != fingerprint.of_module(Scaled(3.0))
    dropped = torch.nn.Sequential(torch.nn.LeakyReLU(0.1)), torch.nn.Sequential(torch.nn.LeakyReLU(0.2))
    assert len({fingerprint.of_module(module) for module in dropped}) == 2


def test_other_code_shows() -> None:
    assert fingerprint.of_module(Scaled()) != fingerprint.of_module(_other_code()())


def test_other_code_shows_where_no_source_is_kept() -> None:
    assert fingerprint.of_module(_from_console("*")) == fingerprint.of_module(_from_console("*"))
    assert fingerprint.of_module(_from_console("*")) != fingerprint.of_module(_from_console("+"))


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    with pretrained.quiet():
        tiny("bert").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_directory_is_as_equal_as_its_bytes(saved: Path, tiny: Tiny, tmp_path: Path) -> None:
    with pretrained.quiet():
        tiny("bert").save_pretrained(tmp_path / "again")
    before = open_source(saved).fingerprint
    assert open_source(tmp_path / "again").fingerprint == before
    (saved / "README.md").write_text("changes nothing", encoding="utf-8")
    assert open_source(saved).fingerprint == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_one_byte_of_a_directory_shows(name: str, saved: Path) -> None:
    before = open_source(saved).fingerprint
    content = bytearray((saved / name).read_bytes())
    position = -1 if name.endswith("safetensors") else content.index(b"0.1")
    content[position] ^= 1
    (saved / name).write_bytes(bytes(content))
    assert fingerprint.of_directory(saved, with_code=False) != before


def test_code_of_a_directory_counts_where_it_runs(saved: Path) -> None:
    without = fingerprint.of_directory(saved, with_code=True)
    (saved / "own.py").write_text("x = 1", encoding="utf-8")
    assert fingerprint.of_directory(saved, with_code=True) != without
    assert fingerprint.of_directory(saved, with_code=False) == without


def test_sparse_buffers_count() -> None:
    def with_buffer(buffer: torch.Tensor) -> torch.nn.Module:
        module = torch.nn.Module()
        module.register_buffer("table", buffer)
        return module

    dense = torch.eye(3)
    rows = [torch.nested.nested_tensor([torch.ones(length), dense[0]]) for length in (1, 2)]
    kinds = [dense, dense.to_sparse(), (2 * dense).to_sparse(), dense.to_sparse_csr(), *rows]
    assert len({fingerprint.of_module(with_buffer(buffer)) for buffer in kinds}) == len(kinds)


def test_samples_count_by_name_value_type_and_shape() -> None:
    x = np.arange(6.0, dtype=np.float32)
    kinds: list[Any] = [None, {"x": x}, {"y": x}, {"x": x + 1}, {"x": x.astype(np.float64)}, {"x": x.reshape(2, 3)}]
    kinds += [{"x": [[1, 2, 3, 4]]}, {"x": [[1, 2], [3, 4]]}]
    assert len({fingerprint.of_samples(kind) for kind in kinds}) == len(kinds)
    assert fingerprint.of_samples({"x": x}) == fingerprint.of_samples({"x": x.copy()})
    assert fingerprint.of_samples(x) == fingerprint.of_samples((x,)) == fingerprint.of_samples([x])
    assert fingerprint.of_samples(torch.from_numpy(x)[::2]) == fingerprint.of_samples(torch.from_numpy(x[::2].copy()))


def test_a_graph_module_of_torch_fx_has_one() -> None:
    """Some of its attributes are named as hooks are, and are lists."""
    linear = torch.nn.Linear(2, 2)
    first, same, other = (
        fingerprint.of_module(torch.fx.symbolic_trace(torch.nn.Sequential(linear, part)))
        for part in (torch.nn.ReLU(), torch.nn.ReLU(), torch.nn.Tanh())
    )
    assert first == same != other
