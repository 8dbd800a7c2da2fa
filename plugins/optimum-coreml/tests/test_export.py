from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import ExportError, InputError, OptionError, SessionError
from optimum_core.hardware import detect
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.plugins import manager
from optimum_core.testing.tiny import Tiny
from optimum_core.types import Artifact, Fidelity, OptimizeRequest
from optimum_coreml import plugin
from optimum_coreml.devices import ROUTES
from optimum_coreml.interface import compute_precision, minimum_target
from optimum_coreml.session import CoreMlSession
from optimum_coreml.storage import notes_of, package_of, read_program

Make = Callable[[str], Any]
Exported = Callable[..., Artifact]
Load = Callable[..., CoreMlSession]


def export(made: Any, output: Path, **changes: Any) -> Artifact:
    output.mkdir(parents=True, exist_ok=True)
    return manager().export(made.request(output, **changes))


def checked(made: Tiny, session: CoreMlSession, precision: str = "fp32") -> Fidelity:
    return made.compare(session.run, precision)


def problems(fidelity: Fidelity) -> dict[str, str]:
    assert fidelity.results
    return {item.case: item.problem for item in fidelity.results if not item.passed}


def program(artifact: Artifact) -> Any:
    return read_program(package_of(artifact), "the test")


@pytest.mark.parametrize(
    ("kind", "route"), [*itertools.product(["bert", "vit"], ROUTES), ("distilbert features", "trace")]
)
def test_each_route_agrees_with_eager_at_unseen_shapes(
    kind: str, route: str, tiny: Make, exported: Exported, load: Load
) -> None:
    made, artifact = tiny(kind), exported(kind, route)
    assert problems(checked(made, load(artifact))) == {}
    spec = program(artifact)
    assert [item.name for item in spec.description.input] == [item.name for item in made.inputs]
    assert [item.name for item in spec.description.output] == [item.name for item in made.outputs]
    assert (compute_precision(spec), minimum_target(spec)) == ("fp32", "iOS18")
    (step,) = artifact.steps
    assert (step.hook, step.backend, step.options["route"]) == ("export", "coreml", route)
    assert artifact.files[0] == "model.mlpackage/Manifest.json"
    found = {path.relative_to(artifact.path).as_posix() for path in artifact.path.rglob("*") if path.is_file()}
    assert found == set(artifact.files)


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_sixteen_bits_written_at_once_or_afterwards(
    kind: str, tiny: Make, exported: Exported, load: Load, tmp_path: Path
) -> None:
    made, whole = tiny(kind), exported(kind)
    request = OptimizeRequest(
        backend="coreml", artifact=whole, device="all", precision="fp16", hardware=detect(), output=tmp_path
    )
    for half in (exported(kind, "trace", "fp16"), manager().optimize(request)):
        assert (half.precision, compute_precision(program(half))) == ("fp16", "fp16")
        fidelity = checked(made, load(half, precision="fp16"), "fp16")
        assert problems(fidelity) == {}
        assert fidelity.worst is not None and fidelity.worst.relative_error > 1e-5, "it was computed in 16 bits"
        with pytest.raises(SessionError, match="computes in fp16, not in fp32"):
            load(half)
    with pytest.raises(SessionError, match="optimize the artifact"):
        load(whole, precision="fp16")


def test_optimizing_to_its_own_precision_copies(exported: Exported, tmp_path: Path, load: Load) -> None:
    whole = exported("bert")
    request = OptimizeRequest(
        backend="coreml", artifact=whole, device="all", precision="fp32", hardware=detect(), output=tmp_path
    )
    same = manager().optimize(request)
    assert [(same.path / name).read_bytes() for name in same.files] == [
        (whole.path / name).read_bytes() for name in whole.files
    ]
    half = exported("bert", "trace", "fp16")
    with pytest.raises(OptionError, match="gets no more exact"):
        plugin.optimize(
            OptimizeRequest(
                backend="coreml", artifact=half, device="all", precision="fp32", hardware=detect(), output=tmp_path
            )
        )


@pytest.mark.parametrize("target", ["iOS15", "iOS16", "iOS17"])
def test_older_targets(target: str, tiny: Make, load: Load, tmp_path: Path) -> None:
    made = tiny("gpt2")
    artifact = export(made, tmp_path, options={"minimum_deployment_target": target})
    assert minimum_target(program(artifact)) == target
    assert problems(checked(made, load(artifact))) == {}


def test_lengths_are_bounded_and_checked(tiny: Make, exported: Exported, load: Load, tmp_path: Path) -> None:
    made = tiny("distilbert features")
    bounded = export(made, tmp_path, options={"upper_bounds": {"batch": 4}})
    for artifact, batches, taken in (
        (bounded, 5, False),
        (bounded, 4, True),
        (exported("distilbert features"), 5, True),
    ):
        inputs = made.draw(batch=batches)
        session = load(artifact)
        if taken:
            session.run(inputs)
        else:
            with pytest.raises(InputError, match="the program takes 1 to 4 x 1 to 64"):
                session.run(inputs)
    with pytest.raises(OptionError, match="names axis 'width'"):
        export(made, tmp_path / "no", options={"upper_bounds": {"width": 4}})


def test_enumerated_shapes(tiny: Make, load: Load, tmp_path: Path) -> None:
    made = tiny("bert")
    shapes = [{"batch": 1, "sequence": 16}, {"batch": 4, "sequence": 8}]
    session = load(export(made, tmp_path, options={"enumerated_shapes": shapes}))
    module = made.module
    for lengths in shapes:
        inputs = made.draw(**lengths)

        np.testing.assert_allclose(
            np.asarray(session.run(inputs)["logits"]), eager_outputs(module, inputs)["logits"], atol=1e-4
        )
    with pytest.raises(InputError, match="the program takes"):
        session.run(made.draw(batch=1, sequence=9))
    with pytest.raises(OptionError, match="leaves axis 'batch' open"):
        export(made, tmp_path / "no", options={"enumerated_shapes": [{"sequence": 5}]})


def test_what_xcode_shows(tiny: Make, tmp_path: Path) -> None:
    options = {
        "author": "A. Author",
        "license": "MIT",
        "version": "2",
        "short_description": "Says how it likes a film",
        "input_descriptions": {"input_ids": "Words"},
    }
    spec = program(export(tiny("bert"), tmp_path, options=options))
    about = spec.description.metadata
    assert (about.author, about.license, about.versionString) == ("A. Author", "MIT", "2")
    assert about.shortDescription == "Says how it likes a film"
    assert spec.description.input[0].shortDescription == "Words; int64 of batch x sequence"
    assert spec.description.output[0].shortDescription.startswith("A score for each class")
    assert notes_of(spec)["classes"] == "LABEL_0,LABEL_1,LABEL_2,LABEL_3,LABEL_4"


def test_wrong_labels(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="2 names, and there are 5 classes"):
        export(tiny("bert"), tmp_path, options={"class_labels": ["a", "b"]})
    with pytest.raises(OptionError, match="describes 'pixels'"):
        export(tiny("bert"), tmp_path, options={"input_descriptions": {"pixels": ""}})


def test_tracing_goes_into_functions_with_a_derivative_of_their_own(load: Load, tmp_path: Path) -> None:
    import torch

    from optimum_core.models.sources.source import MemorySource
    from optimum_core.types import ExportRequest, TensorSpec

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * 2

    class Split(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x + 1

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    class Calls(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": Split.apply(Doubled.apply(x))}  # type: ignore[no-untyped-call]

    before = torch.autograd.Function.__dict__["apply"]
    request = ExportRequest(
        backend="coreml",
        source=MemorySource(Calls().eval()),
        task="custom",
        format="coreml",
        precision="fp32",
        samples={"x": np.ones(3, np.float32)},
        inputs=(TensorSpec(name="x", dtype="float32", shape=("n",)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=("n",)),),
        output=tmp_path,
    )
    found = load(manager().export(request)).run({"x": np.array([1, 5], np.float32)})
    assert np.asarray(found["y"]).tolist() == [3, 11]
    assert torch.autograd.Function.__dict__["apply"] is before


def test_booleans_and_whole_numbers_at_the_edge(load: Load, tmp_path: Path) -> None:
    """Core ML has 32-bit integers only: flags and 64-bit numbers go in and come out as what the model has."""
    import torch

    from optimum_core.models.sources.source import MemorySource
    from optimum_core.types import ExportRequest, TensorSpec

    class Flags(torch.nn.Module):
        def forward(self, count: torch.Tensor, keep: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"kept.count": torch.where(keep, count, 0), "other": ~keep}

    specs = [TensorSpec(name=name, dtype=kind, shape=("n",)) for name, kind in (("count", "int64"), ("keep", "bool"))]
    outputs = (
        TensorSpec(name="kept.count", dtype="int64", shape=("n",)),
        TensorSpec(name="other", dtype="bool", shape=("n",)),
    )
    samples = {"count": np.array([5, 6, 7]), "keep": np.array([True, False, True])}
    request = ExportRequest(
        backend="coreml",
        source=MemorySource(Flags().eval()),
        task="custom",
        format="coreml",
        precision="fp32",
        samples=samples,
        inputs=tuple(specs),
        outputs=outputs,
        output=tmp_path,
    )
    session = load(manager().export(request))
    found = session.run({"count": np.array([1, 2]), "keep": np.array([False, True])})
    assert [(np.asarray(item).dtype.name, np.asarray(item).tolist()) for item in found.values()] == [
        ("int64", [0, 2]),
        ("bool", [True, False]),
    ]
    with pytest.raises(InputError, match="beyond 32 bits"):
        session.run({"count": np.array([2**40]), "keep": np.array([True])})
    with pytest.raises(InputError, match="is int32, not int64"):
        session.run({"count": np.array([1], np.int32), "keep": np.array([True])})


@pytest.mark.parametrize("route", ROUTES)
def test_exporting_a_causal_model_is_silent_and_leaves_all_as_it_was(
    route: str,
    tiny: Make,
    load: Load,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from optimum_coreml.shims import registry

    made = tiny("gpt2")
    weights = {name: value.clone() for name, value in made.module.state_dict().items()}
    before = dict(registry.name_to_func_mapping)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        artifact = export(made, tmp_path, route=route)
    assert [str(item.message) for item in seen] == []
    assert capfd.readouterr() == ("", "")
    assert [item for item in caplog.records if item.levelno > logging.DEBUG] == []
    assert registry.name_to_func_mapping == before
    assert all(bool((value == weights[name]).all()) for name, value in made.module.state_dict().items())
    assert problems(checked(made, load(artifact))) == {}


def test_what_cannot_be_done(tiny: Make, tmp_path: Path) -> None:
    made = tiny("bert")
    assert plugin.export(made.request(tmp_path, backend="other")) is None
    for changes, problem in (
        ({"route": "teleport"}, "unknown route 'teleport'"),
        ({"format": "onnx"}, "does not export 'onnx'"),
        ({"precision": "bf16"}, "does not export in 'bf16'"),
        ({"options": {"depth": 1}}, "unknown option 'depth'"),
    ):
        with pytest.raises(OptionError, match=problem):
            plugin.export(made.request(tmp_path, **changes))
    with pytest.raises(ExportError, match="route 'trace'"):
        plugin.export(made.request(tmp_path, route="trace", samples={s.name: np.ones((1, 1)) for s in made.inputs}))
