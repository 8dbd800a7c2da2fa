from __future__ import annotations

import collections
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import OptionError, SessionError, UnavailableError
from optimum_core.plugins import manager
from optimum_core.testing.machine import Machine
from optimum_core.testing.quantizing import cosine, weight_only
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_coreml import plugin
from optimum_coreml.coremltools_adapter import open_package, program_of, quiet
from optimum_coreml.session import CoreMlSession
from optimum_coreml.storage import package_of, read_program, weights_file
from optimum_coreml_interpreter import Program

Make = Callable[..., QuantizeRequest]
Exported = Callable[..., Artifact]


INT8, INT4 = weight_only(), weight_only(weights="int4")
#: The configuration, options, what is written, and the least cosine to eager that it has to keep, on random weights.
CONFIGS: dict[str, tuple[QuantizeConfig, dict[str, Any], set[str], float]] = {
    "int8": (INT8, {}, {"blockwise_shift_scale"}, 0.999),
    "int8, asymmetric": (weight_only(symmetric=False), {}, {"blockwise_shift_scale"}, 0.999),
    "uint8": (weight_only(weights="uint8"), {}, {"blockwise_shift_scale"}, 0.999),
    "int8, one scale": (weight_only(per_channel=False), {}, {"blockwise_shift_scale"}, 0.999),
    "int4": (INT4, {}, {"blockwise_shift_scale"}, 0.93),
    "int4, by 16": (weight_only(weights="int4", group_size=16), {}, {"blockwise_shift_scale"}, 0.93),
    "nf4": (weight_only(weights="nf4"), {}, {"blockwise_shift_scale", "lut_to_dense"}, 0.97),
    "6 bits": (INT8, {"palettize": 6}, {"lut_to_dense"}, 0.99),
    "4 bits": (INT4, {"palettize": 4}, {"lut_to_dense"}, 0.93),
    "6 bits, tables in 8": (
        INT8,
        {"palettize": 6, "quantize_tables": True},
        {"lut_to_dense", "blockwise_shift_scale"},
        0.99,
    ),
    "pruned": (INT8, {"prune": 0.1}, {"sparse_blockwise_shift_scale", "sparse_to_dense"}, 0.97),
    "pruned, 6 bits": (INT8, {"prune": 0.1, "palettize": 6}, {"lut_to_sparse", "sparse_to_dense"}, 0.97),
}


@pytest.fixture
def quantize_request(tmp_path: Path, hardware: Machine) -> Make:
    def make(artifact: Artifact, config: QuantizeConfig, **changes: Any) -> QuantizeRequest:
        output = tmp_path / "quantized"
        output.mkdir(exist_ok=True)
        request = QuantizeRequest(
            backend="coreml", artifact=artifact, config=config, hardware=hardware(), output=output
        )
        return dataclasses.replace(request, **changes)

    return make


def size(artifact: Artifact) -> int:
    return weights_file(package_of(artifact)).stat().st_size


def operators(artifact: Artifact) -> collections.Counter[str]:
    function = read_program(package_of(artifact), "test").mlProgram.functions["main"]
    found = (item.type for item in function.block_specializations[function.opset].operations)
    return collections.Counter(name.removeprefix("constexpr_") for name in found if name.startswith("constexpr_"))


def expanded(artifact: Artifact) -> dict[str, tuple[Any, Any]]:
    """Weights by name as the interpreter brings them back, and as coremltools does."""
    package = package_of(artifact)
    ours = Program(read_program(package, "test"), weights_file(package), "test")._values
    found = {}
    with quiet() as ct:
        for op in program_of(open_package(ct, package)).functions["main"].operations:
            last = op.op_type.startswith("constexpr_") and len(op.outputs) == 1
            if last and not any(child.op_type.startswith("constexpr_") for child in op.outputs[0].child_ops):
                try:
                    theirs = op.materialized_val_inference()
                except (AttributeError, TypeError, ValueError):  # coremltools does not do every chain
                    continue
                found[op.outputs[0].name] = (ours[op.outputs[0].name], theirs)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_near_eager_and_smaller(
    name: str,
    exported: Exported,
    tiny: Callable[[str], Any],
    quantize_request: Make,
    load: Callable[..., CoreMlSession],
) -> None:
    artifact, (config, options, kinds, least) = exported("distilbert features"), CONFIGS[name]
    written = manager().quantize(quantize_request(artifact, config, options=options))
    assert set(operators(written)) == kinds
    assert size(written) < size(artifact) / 2
    assert written.precision == config.weights.removeprefix("u")
    assert written.steps[-1].options["config"] == config.to_dict()
    for mine, theirs in expanded(written).values():
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-6)
    session = load(written)
    for case in tiny("distilbert features").cases:
        one, other = np.asarray(session.run(case.inputs)["last_hidden_state"]), case.outputs["last_hidden_state"]
        assert cosine(one, other) >= least, case.name
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"palettize": 6}])
def test_older_targets_pack_their_own_way(
    options: dict[str, Any],
    tiny: Callable[[str], Any],
    quantize_request: Make,
    load: Callable[..., CoreMlSession],
    tmp_path: Path,
) -> None:
    made = tiny("vit")
    (tmp_path / "old").mkdir()
    old = manager().export(made.request(tmp_path / "old", options={"minimum_deployment_target": "iOS16"}))
    written = manager().quantize(quantize_request(old, INT8, options=options))
    assert set(operators(written)) == ({"lut_to_dense"} if options else {"affine_dequantize"})
    case = made.cases[0]
    got = torch.as_tensor(np.asarray(load(written).run(case.inputs)["logits"]))
    assert torch.cosine_similarity(got.flatten(), torch.as_tensor(case.outputs["logits"]).flatten(), dim=0) > 0.98
    with pytest.raises(OptionError, match="needs iOS18, and the program is for iOS16"):
        plugin.quantize(quantize_request(old, INT4))


def test_a_layer_that_is_excluded_stays_float(exported: Exported, quantize_request: Make) -> None:
    artifact = exported("bert", "export")
    whole = operators(manager().quantize(quantize_request(artifact, INT8)))["blockwise_shift_scale"]
    config = weight_only(exclude=["bert.encoder.layer.0.attention", "bert.encoder.*.intermediate"])
    kept = manager().quantize(quantize_request(artifact, config))
    assert operators(kept)["blockwise_shift_scale"] == whole - 4 - 1
    with pytest.raises(OptionError, match=r"(?s)'decoder', which is no layer.*bert"):
        plugin.quantize(quantize_request(artifact, weight_only(exclude=["decoder"])))


@pytest.mark.parametrize(
    ("config", "options", "problem"),
    [
        (QuantizeConfig(scheme="dynamic"), {}, "'scheme'"),
        (weight_only(weights="fp8"), {}, "'weights'"),
        (weight_only(weights="fp16"), {}, "'weights'"),
        (weight_only(weights="int4", ratio=0.5), {}, "'ratio'"),
        (weight_only(weights="int4", algorithm="awq"), {}, "'algorithm'"),
        (weight_only(weights="nf4", symmetric=True), {}, "'symmetric'"),
        (weight_only(weights="uint8", symmetric=True), {}, "'symmetric'"),
        (weight_only(weights="nf4", group_size=16), {}, "'group_size'"),
        (weight_only(weights="int4", group_size=7), {}, "'group_size' cannot be 7"),
        (weight_only(weights="int4", per_channel=False), {}, "'per_channel'"),
        (INT8, {"palettize": 4}, "'palettize' cannot be 4"),
        (INT8, {"quantize_tables": True}, "says nothing without 'palettize'"),
        (weight_only(weights="nf4"), {"prune": 0.5}, "'prune'"),
        (INT8, {"weight_threshold": 10**9}, "no layer to bring to"),
        (INT8, {"weight_treshold": 1}, "unknown option"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    config: QuantizeConfig, options: dict[str, Any], problem: str, exported: Exported, quantize_request: Make
) -> None:
    request = quantize_request(exported("bert"), config, options=options)
    with pytest.raises(OptionError, match=problem):
        plugin.quantize(request)
    assert not list(request.output.iterdir())


def test_activations_take_a_mac(exported: Exported, quantize_request: Make) -> None:
    with pytest.raises(UnavailableError, match="runs on macOS only"):
        plugin.quantize(quantize_request(exported("bert"), QuantizeConfig(), calibration=[{}]))


def test_what_was_quantized_is_not_quantized_again(exported: Exported, quantize_request: Make) -> None:
    once = manager().quantize(quantize_request(exported("bert"), INT8))
    with pytest.raises(OptionError, match="cannot quantize 'int8'"):
        plugin.quantize(quantize_request(once, INT8))


def test_damaged_weights_are_refused(exported: Exported, quantize_request: Make, tmp_path: Path) -> None:
    shutil.copytree(exported("bert").path, tmp_path / "copy")
    artifact = dataclasses.replace(exported("bert"), path=tmp_path / "copy")
    path = weights_file(package_of(artifact))
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(SessionError, match="not the file written with it"):
        plugin.quantize(quantize_request(artifact, INT8))


def test_it_is_silent(exported: Exported, quantize_request: Make, capfd: pytest.CaptureFixture[str]) -> None:
    plugin.quantize(quantize_request(exported("bert"), INT8))
    assert capfd.readouterr() == ("", "")
