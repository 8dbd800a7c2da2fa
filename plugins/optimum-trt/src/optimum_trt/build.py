"""Build of one engine: the ONNX is parsed, profiles are set, the plan is built. Errors of the parser and the builder
become `OptimumError`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.backend import interface_problems
from optimum_core.errors import ExportError, OptionError
from optimum_core.types import TensorSpec
from optimum_trt.modules import Capability, Toolkit
from optimum_trt.options import TrtOptions
from optimum_trt.profiles import Profile, groups, lengthened, shortened

#: A model refuses ranges at once, before anything is compiled; at most this many are tried.
_MOST_TRIES = 48
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Inputs and settings of one engine build."""

    who: str
    onnx: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    capability: Capability | None
    options: TrtOptions
    general: Profile
    shapes: tuple[Mapping[str, int], ...]
    lengths: frozenset[int]

    def profiles(self, general: Profile) -> tuple[Profile, ...]:
        """Return one profile for each declared shape, and the one that takes every shape last."""
        return (*groups(general, self.shapes), general)


def build(toolkit: Toolkit, plan: Plan) -> tuple[Any, tuple[Profile, ...]]:
    """Return the serialized engine, and its profiles.

    Raises:
        ExportError: the parser or the builder refused it; the message names the layer.
        OptionError, UnavailableError: this module does not support an option or the target.
    """
    builder = toolkit.native.Builder(toolkit.log)
    network = _parse(toolkit, builder, plan)
    general: Profile | None = plan.general
    for _ in range(_MOST_TRIES):
        assert general is not None
        profiles = plan.profiles(general)
        toolkit.log.errors.clear()
        config = _config(toolkit, builder, network, plan, profiles)
        with toolkit.timing_cache(config, plan.options.timing_cache, plan.who):
            serialized = builder.build_serialized_network(network, config)
        if serialized is not None:
            return serialized, profiles
        said = toolkit.log.said()
        # The message has the points that it refused; the declared shapes are not to be changed for them.
        retry = shortened(general, plan.lengths, plan.shapes) if "kMAX" in said or "kOPT" in said else None
        if "kMIN" in said:
            retry = lengthened(general, plan.shapes)
        if retry is None or plan.options.ranges:
            break
        general = retry
    raise _refused(toolkit, network, plan)


def _parse(toolkit: Toolkit, builder: Any, plan: Plan) -> Any:
    toolkit.log.errors.clear()
    network = toolkit.network(builder)
    parser = toolkit.native.OnnxParser(network, toolkit.log)
    if not parser.parse_from_file(str(plan.onnx)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        why = "; ".join(dict.fromkeys(map(_parse_error, errors))) or toolkit.log.said()
        remedy = "export by another route, or leave this model to another backend"
        if "zero point" in why.lower():
            remedy = "quantize symmetrically: activations 'int8', symmetric=True"
        raise ExportError(plan.who, f"{toolkit.label} cannot read it: {why}", remedy)
    _check_interface(network, plan)
    return network


def _parse_error(error: Any) -> str:
    kind = str(error.code()).rpartition(".")[2]
    described = error.desc() if error.desc() not in ("", "false") else f"refused by {error.func()}"
    return f"node {error.node_name()!r} ({error.node_operator()}): {described} [{kind}]"


def _check_interface(network: Any, plan: Plan) -> None:
    """Check that the network has the artifact's inputs and outputs."""
    inputs = {tensor.name: tensor for tensor in map(network.get_input, range(network.num_inputs))}
    outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}
    takes = [
        (name, _dtype(tensor), tuple(None if n == -1 else n for n in tensor.shape)) for name, tensor in inputs.items()
    ]
    gives = [(name, _dtype(tensor), None) for name, tensor in outputs.items()]
    problems = interface_problems(takes, gives, (plan.inputs, plan.outputs), "network")
    for kind, specs, tensors in (("input", plan.inputs, inputs), ("output", plan.outputs, outputs)):
        shapes = [spec.name for spec in specs if spec.name in tensors and tensors[spec.name].is_shape_tensor]
        problems += [f"{kind} {name!r} is a shape, which has no place in a profile made of axes" for name in shapes]
    if problems:
        raise ExportError(
            plan.who, "; ".join(problems), "export the model again: file and artifact do not belong together"
        )


def _dtype(tensor: Any) -> str:
    return _DTYPES.get(tensor.dtype.name, str(tensor.dtype.name))


def _config(toolkit: Toolkit, builder: Any, network: Any, plan: Plan, profiles: tuple[Profile, ...]) -> Any:
    config, options = builder.create_builder_config(), plan.options
    toolkit.aim(config, plan.capability, plan.who)
    toolkit.flag(config, "TF32", options.tf32, plan.who)
    toolkit.flag(config, "WEIGHT_STREAMING", options.weight_streaming, plan.who)
    if options.refit:
        if plan.capability is not None and not toolkit.module.refits_anywhere:
            why = f"{toolkit.module.package} builds engines that can be refitted only where their GPU is"
            raise OptionError(plan.who, why, "leave 'refit' out, or build on a machine with the GPU")
        toolkit.flag(config, "REFIT", True, plan.who)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(toolkit.native.MemoryPoolType.WORKSPACE, options.workspace)
    varying = {tensor.name for tensor in map(network.get_input, range(network.num_inputs)) if -1 in tensor.shape}
    for profile in profiles if varying else ():
        made = builder.create_optimization_profile()
        for spec in plan.inputs:
            if spec.name in varying:
                made.set_shape(spec.name, *profile.shapes(spec))
        if config.add_optimization_profile(made) < 0:
            raise ExportError(
                plan.who, f"the profile {dict(profile.ranges)} was refused: {toolkit.log.said()}", _RANGES
            )
    return config


def _refused(toolkit: Toolkit, network: Any, plan: Plan) -> ExportError:
    said = toolkit.log.said()
    names = {network.get_layer(index).name for index in range(network.num_layers)} - {""}
    guilty = max((name for name in names if name in said), key=len, default=None)
    layer = f"layer {guilty!r}: " if guilty else ""
    remedy = next((remedy for word, remedy in _REMEDIES.items() if word in said), _OTHERWISE)
    return ExportError(plan.who, f"{toolkit.label} cannot build it: {layer}{said}", remedy)


_RANGES = "state the lengths of the axes in the option 'ranges': {'sequence': (1, 128, 512)}"
_OTHERWISE = "build in another precision, export by another route, or leave this model to another backend"
_REMEDIES: Mapping[str, str] = {
    "violate shape constraints": _RANGES,
    "FP32 GEMM is not supported": "build in fp16",
    "HW-specific datatypes": "build in a precision that this GPU has, or for a newer one",
    "out of memory": "give a smaller 'workspace', or shorter 'ranges'",
}
