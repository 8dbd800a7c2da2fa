"""A program, read and prepared for execution: constants in memory, weights decompressed, every operator known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from coremltools.proto import MIL_pb2

from optimum_core.errors import SessionError
from optimum_coreml_interpreter import (
    compressed,
    elementwise,
    gathering,
    lists,
    pictures,
    products,
    recurrent,
    shaping,
    statistics,
)
from optimum_coreml_interpreter.lists import TensorList
from optimum_coreml_interpreter.registry import OPERATORS, VERSIONED, UndefinedError, flag
from optimum_coreml_interpreter.values import STORAGE, Constants

#: Modules whose import fills `OPERATORS`.
FAMILIES = (compressed, elementwise, gathering, lists, pictures, products, recurrent, shaping, statistics)

#: Exceptions of an operator that cannot compute its inputs: UndefinedError, or Python's and torch's own.
_FAILURES = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
_STATES = ("read_state", "write_state")
#: Operators with nested blocks, and their number of blocks.
_BRANCHING = {"cond": 2, "while_loop": 2}
Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """A nested block of the program, run by an operator; names of its inputs and outputs."""

    inputs: tuple[str, ...]
    steps: tuple[_Step, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One operator of the program.

    Attributes:
        inputs: the binding of each input: names of values, or constants.
        several: inputs that take a list.
        outputs: names, with the element type and rank that the program declares.
        blocks: for `cond`, the branches for true and false; for `while_loop`, the condition and the body.
    """

    kind: str
    name: str
    inputs: Mapping[str, tuple[Any, ...]]
    several: frozenset[str]
    outputs: tuple[tuple[str, Any], ...]
    blocks: tuple[_Block, ...] = ()


@dataclass(frozen=True, slots=True)
class _Name:
    """A placeholder for a value that is known only when the program runs, or for a constant by its name."""

    text: str


class Program:
    """The main function of an ML program.

    Safe to run from several threads where it has no state.

    Args:
        spec: coremltools' message `Model`.
        weights: its file of weights.
        who: its name in error messages.

    Raises:
        SessionError: it has unknown operators, types or constants; all unknown operators are named.
    """

    def __init__(self, spec: Any, weights: Path, who: str) -> None:
        self._who = who
        function = spec.mlProgram.functions["main"]
        self._opset = int(function.opset.removeprefix("CoreML"))
        block = function.block_specializations[function.opset]
        self.outputs = tuple(block.outputs)
        self._types = {item.name: item.type for item in function.inputs}
        self.inputs = tuple(name for name, kind in self._types.items() if kind.WhichOneof("type") != "stateType")
        self._refuse_unknown(block.operations)
        self._values: Values = {}
        self._steps = self._prepared(block.operations, Constants(weights))
        made = {*self.inputs, *self._values, *(name for step in self._steps for name, _ in step.outputs)}
        for name in self.outputs:
            if name not in made:
                raise SessionError(self._who, f"no operator gives the program's output {name!r}", "export it anew")

    def _refuse_unknown(self, operations: Any) -> None:
        known = {"const", *_STATES, *_BRANCHING, *OPERATORS}
        unknown = sorted(
            {item.type for item in _all(operations) if item.type not in known}
            | {item.type for item in _all(operations) if len(item.blocks) != _BRANCHING.get(item.type, 0)}
        )
        if unknown:
            why = f"the interpreter does not know {', '.join(unknown)}: the program cannot be checked here"
            raise SessionError(self._who, why, "verify it on a Mac, or export the model otherwise")

    def _prepared(self, operations: Any, constants: Constants) -> tuple[_Step, ...]:
        """Return the steps that are left for when the program runs; constants are computed now."""
        found: list[_Step] = []
        for operation in operations:
            try:
                self._prepare(operation, constants, found)
            except _FAILURES as error:
                raise self._failed(operation.type, _name_of(operation), error) from error
        return tuple(found)

    def _prepare(self, operation: Any, constants: Constants, steps: list[_Step]) -> None:
        if operation.type == "const":
            name = operation.outputs[0].name
            if name in self._values:
                raise UndefinedError(f"two constants named {name!r}")
            self._values[name] = constants.read(operation.attributes["val"])
            return
        blocks = tuple(
            _Block(
                inputs=tuple(item.name for item in block.inputs),
                steps=self._prepared(block.operations, constants),
                outputs=tuple(block.outputs),
            )
            for block in operation.blocks
        )
        step = _step(operation, constants, blocks)
        if operation.type.startswith("constexpr_"):
            self._run(step, self._values, {})
        else:
            steps.append(step)

    def states(self) -> dict[str, torch.Tensor]:
        """Return fresh state by name, all zeros; empty where the program has none."""
        found = {}
        for name, kind in self._types.items():
            if kind.WhichOneof("type") == "stateType":
                about = kind.stateType.wrappedType.tensorType
                shape = [int(axis.constant.size) for axis in about.dimensions]
                found[name] = torch.zeros(shape, dtype=STORAGE[about.dataType])
        return found

    def input_type(self, name: str) -> torch.dtype:
        """Return the torch dtype that stores an input."""
        return STORAGE[self._types[name].tensorType.dataType]

    def run(
        self, inputs: Mapping[str, torch.Tensor], states: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Return outputs by name; `states` are written to.

        Raises:
            SessionError: an operator cannot compute its inputs, or its result differs from the program's declaration.
        """
        values: Values = {**self._values, **inputs}
        with torch.no_grad():
            self._run_all(self._steps, values, states if states is not None else {})
        return {name: values[name] for name in self.outputs}

    def _run_all(self, steps: tuple[_Step, ...], values: Values, states: dict[str, torch.Tensor]) -> None:
        for step in steps:
            try:
                self._run(step, values, states)
            except _FAILURES as error:
                raise self._failed(step.kind, step.name, error) from error

    def _run(self, step: _Step, values: Values, states: dict[str, torch.Tensor]) -> None:
        if step.kind in _STATES:
            self._state(step, values, states)
            return
        given = {name: self._bound(step, name, values) for name in step.inputs}
        if step.kind in VERSIONED:
            given["opset"] = self._opset
        if step.blocks:
            result: Any = self._branch(step, given, values, states)
        else:
            result = OPERATORS[step.kind](**given)
        results = result if isinstance(result, tuple) else (result,)
        for (name, kind), value in zip(step.outputs, results, strict=True):
            _check_declared(kind, value)
            values[name] = value

    def _branch(
        self, step: _Step, given: Mapping[str, Any], values: Values, states: dict[str, torch.Tensor]
    ) -> tuple[Any, ...]:
        first, second = step.blocks
        if step.kind == "cond":
            return self._block(first if flag(given["pred"]) else second, (), values, states)
        carried = tuple(given["loop_vars"])
        while flag(self._block(first, carried, values, states)[0]):
            carried = self._block(second, carried, values, states)
        return carried

    def _block(
        self, block: _Block, given: tuple[Any, ...], values: Values, states: dict[str, torch.Tensor]
    ) -> tuple[Any, ...]:
        """Return the outputs of a block. A block sees the values outside of it, but its own are not visible outside."""
        inside = {**values, **dict(zip(block.inputs, given, strict=True))}
        self._run_all(block.steps, inside, states)
        return tuple(inside[name] for name in block.outputs)

    def _state(self, step: _Step, values: Values, states: dict[str, torch.Tensor]) -> None:
        (name,) = step.inputs["input"]
        if step.kind == "read_state":
            values[step.outputs[0][0]] = states[name.text]
            return
        value = self._bound(step, "data", values)
        if value.shape != states[name.text].shape or value.dtype != states[name.text].dtype:
            raise UndefinedError(f"state {name.text!r} written with {value.dtype} of {tuple(value.shape)}")
        states[name.text] = value

    def _bound(self, step: _Step, name: str, values: Values) -> Any:
        found = [values[item.text] if isinstance(item, _Name) else item for item in step.inputs[name]]
        if name in step.several:
            return found
        if len(found) != 1:
            raise UndefinedError(f"{len(found)} values for its input {name!r}, which is known to take one")
        return found[0]

    def _failed(self, kind: str, name: str, error: Exception) -> SessionError:
        why = f"operator {kind!r} ({name}) cannot be evaluated: {type(error).__name__}: {error}"
        return SessionError(self._who, why, "check the inputs' shapes and values, or export the model otherwise")


#: Inputs that take several values, also where one is given.
_SEVERAL = frozenset({"values", "loop_vars", "elem_shape"})


def _all(operations: Any) -> Iterator[Any]:
    """Iterate over operations, those of nested blocks included."""
    for operation in operations:
        yield operation
        for block in operation.blocks:
            yield from _all(block.operations)


def _step(operation: Any, constants: Constants, blocks: tuple[_Block, ...]) -> _Step:
    inputs: dict[str, tuple[Any, ...]] = {}
    for name, argument in operation.inputs.items():
        inputs[name] = tuple(
            _Name(item.name) if item.WhichOneof("binding") == "name" else constants.read(item.value)
            for item in argument.arguments
        )
    # Until iOS17, constants of compressed weights are attributes.
    inputs |= {
        name: (constants.read(value),)
        for name, value in operation.attributes.items()
        if operation.type.startswith("constexpr_") and name != "name"
    }
    return _Step(
        kind=operation.type,
        name=_name_of(operation),
        inputs=inputs,
        several=_SEVERAL & inputs.keys(),
        outputs=tuple((item.name, item.type) for item in operation.outputs),
        blocks=blocks,
    )


def _name_of(operation: Any) -> str:
    if "name" in operation.attributes:  # reading a protobuf map at a missing key would add it
        texts = operation.attributes["name"].immediateValue.tensor.strings.values
        return str(texts[0]) if texts else operation.type
    return operation.outputs[0].name if operation.outputs else "without outputs"


def _check_declared(kind: Any, value: torch.Tensor | TensorList) -> None:
    """Check a result against the program's declaration: element type, rank, and the known lengths."""
    if kind.WhichOneof("type") == "listType":
        if not isinstance(value, TensorList) or STORAGE.get(kind.listType.type.tensorType.dataType) != value.dtype:
            raise UndefinedError("no list of what the program declares came out")
        return
    if isinstance(value, TensorList):
        raise UndefinedError("a list came out where the program declares a tensor")
    about = kind.tensorType
    if STORAGE.get(about.dataType) != value.dtype:
        declared = MIL_pb2.DataType.Name(about.dataType)
        raise UndefinedError(f"{value.dtype} came out where the program declares {declared}")
    lengths = [int(axis.constant.size) if axis.HasField("constant") else None for axis in about.dimensions]
    if len(lengths) != value.ndim or any(
        length not in (None, found) for length, found in zip(lengths, value.shape, strict=True)
    ):
        raise UndefinedError(f"a shape of {tuple(value.shape)} came out where the program declares {lengths}")
