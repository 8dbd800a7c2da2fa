from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from optimum_core import accelerate
from optimum_core.errors import ExportError, OptionError
from optimum_core.testing.tiny import Tiny
from optimum_core.types import Artifact, Fidelity
from optimum_core.verify.empty_rows import EMPTY
from optimum_openvino import plugin
from optimum_openvino.devices import ROUTES, cpu_precisions
from optimum_openvino.session import OvSession

Make = Callable[[str], Any]
Load = Callable[..., OvSession]
Exported = Callable[[str, str], Artifact]
Log = pytest.LogCaptureFixture

_NO_TORCH = """
import pickle, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from optimum_openvino import plugin
with open(sys.argv[1], "rb") as file:
    request, inputs = pickle.load(file)
session = plugin.load_session(request)
outputs = plugin.infer(session, inputs)
assert not {"torch", "transformers"} & sys.modules.keys()
print(sorted(outputs))
"""


def export(made: Any, output: Path, **changes: Any) -> Artifact:
    output.mkdir(parents=True, exist_ok=True)
    artifact = plugin.export(made.request(output, **changes))
    assert artifact is not None
    return artifact


def checked(made: Tiny, session: OvSession, precision: str = "fp32") -> Fidelity:
    return made.compare(session.run, precision)


def problems(fidelity: Fidelity) -> dict[str, str]:
    return {item.case: item.problem for item in fidelity.results if not item.passed}


@pytest.mark.parametrize(("kind", "route"), [*itertools.product(["bert features", "vit"], ROUTES), ("t5", "module")])
def test_each_route_agrees_with_eager(kind: str, route: str, tiny: Make, exported_by: Exported, load: Load) -> None:
    made, artifact = tiny(kind), exported_by(kind, route)
    assert artifact.files == ("openvino_model.xml", "openvino_model.bin")
    assert {item.name for item in artifact.path.iterdir()} == set(artifact.files)
    assert problems(checked(made, load(artifact))) == {}
    model = openvino.Core().read_model(artifact.main_file)
    assert [port.get_any_name() for port in model.inputs] == [spec.name for spec in made.inputs]
    for port, spec in zip(model.inputs, made.inputs, strict=True):
        assert [axis.is_dynamic for axis in port.get_partial_shape()] == [isinstance(axis, str) for axis in spec.shape]
    (step,) = artifact.steps
    assert (step.hook, step.backend, step.options["route"]) == ("export", "openvino", route)


def test_the_first_route_is_taken_when_none_is_named(tiny: Make, tmp_path: Path) -> None:
    assert export(tiny("vit"), tmp_path).steps[0].options["route"] == ROUTES[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_within_its_tolerance(
    precision: str, tiny: Make, exported_by: Exported, load: Load
) -> None:
    from optimum_core.hardware import detect

    if precision not in cpu_precisions(detect().cpu):
        pytest.skip(f"this CPU does not compute in {precision}")
    made, artifact = tiny("vit"), exported_by("vit", ROUTES[0])
    low, exact = load(artifact, precision=precision), load(artifact)
    assert problems(checked(made, low, precision)) == {}
    inputs = made.cases[0].inputs
    a, b = np.asarray(low.run(inputs)["logits"]), np.asarray(exact.run(inputs)["logits"])
    assert a.dtype == b.dtype == np.float32
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("route", ROUTES)
def test_exporting_a_causal_model_is_silent_and_leaves_it_as_it_was(
    route: str, tiny: Make, load: Load, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Log
) -> None:
    """Queries at padding on the left, and a row without any token, see nothing: NaN in them would reach valid rows."""
    made = tiny("gpt2")
    module = made.module

    def look() -> dict[str, set[str]]:
        return {name: set(vars(part)) for name, part in module.named_modules()}

    before, weights = look(), {name: value.clone() for name, value in module.state_dict().items()}
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        artifact = export(made, tmp_path, route=route)
    assert [str(item.message) for item in seen] == []
    assert capfd.readouterr() == ("", "")
    assert [item for item in caplog.records if item.levelno > logging.DEBUG] == []
    assert look() == before
    assert all(bool((value == weights[name]).all()) for name, value in module.state_dict().items())
    assert {"left padding", EMPTY} <= {case.name for case in made.cases}
    fidelity = checked(made, load(artifact))
    assert problems(fidelity) == {}
    assert [item.case for item in fidelity.results if item.note] == [EMPTY], "what is not eager's is told"


def test_an_artifact_runs_where_torch_cannot_be_imported(
    tiny: Make, exported_by: Exported, session_request: Callable[..., Any], tmp_path: Path
) -> None:
    import pickle

    made, artifact = tiny("bert features"), exported_by("bert features", ROUTES[0])
    given = tmp_path / "request.pickle"
    given.write_bytes(pickle.dumps((session_request(artifact), made.cases[0].inputs)))
    done = subprocess.run([sys.executable, "-c", _NO_TORCH, str(given)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(spec.name for spec in made.outputs))


def test_what_cannot_be_done(tiny: Make, tmp_path: Path) -> None:
    made = tiny("bert features")
    assert plugin.export(made.request(tmp_path, backend="other")) is None
    for changes, problem in (
        ({"route": "teleport"}, "unknown route 'teleport'"),
        ({"format": "onnx"}, "does not export 'onnx'"),
        ({"options": {"depth": 1}}, "unknown option 'depth'"),
    ):
        with pytest.raises(OptionError, match=problem):
            plugin.export(made.request(tmp_path, **changes))
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(ExportError, match="route 'module'"):
        plugin.export(
            made.request(tmp_path, route="module", samples={s.name: np.ones(1) for s in made.request(tmp_path).inputs})
        )
    assert (root.level, root.filters, root.handlers) == before


class PassedOn(torch.nn.Module):
    """Gives whole numbers back as they came, beside what it computes."""

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"ids": ids, "mean": x.mean(0), "same": x}


def test_an_input_that_is_an_output_too_keeps_its_name_in_the_file(tmp_path: Path) -> None:
    samples = {"ids": torch.arange(6).view(2, 3), "x": torch.rand(3, 4)}
    fast = accelerate(PassedOn().eval(), target="openvino", sample_inputs=samples, budget=0, cache_dir=tmp_path)
    assert fast.manifest.steps[0].options["route"] == "module"
    answer = fast(**samples)
    assert answer["ids"].tolist() == samples["ids"].tolist()
    torch.testing.assert_close(answer["same"], samples["x"])
