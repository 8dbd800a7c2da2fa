"""Calls of a tower in a backend from within the original's own code.

The step that exported the tower records which module it is, and for which calls it was compared with eager: their
arguments beside tensors, and the lengths of their axes. Every other call goes to the eager tower, which the merge has.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from optimum_core.artifact.serialization import from_plain, to_plain
from optimum_core.artifact.structure import Constant, Structure
from optimum_core.generation.decoder_session import RunPart
from optimum_core.models.eager.outputs import Build, build_from
from optimum_core.models.multimodal.towers import Call, Tower, call_of, has_empty_row
from optimum_core.types import Artifact, AxisRange, Step, TensorSpec

#: The key of the record in the options of the step.
_RECORD = "tower"
#: The axis of pictures or sounds in one call: any number of them is taken, as of rows of other models.
_ROWS = "batch"


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerRecord:
    """The module that became a tower, and the calls for which it was compared.

    Attributes:
        structure: the containers around its outputs.
        lengths: by named axis, the shortest and the longest.
    """

    path: str
    constants: Mapping[str, Constant]
    structure: Structure
    lengths: Mapping[str, tuple[int, int]]


def recorded(artifact: Artifact, tower: Tower, ranges: Mapping[str, AxisRange]) -> Artifact:
    """Return the artifact of a tower with the record of it in its first step."""
    record = TowerRecord(
        path=tower.path,
        constants=tower.constants,
        structure=tower.signature.structure,
        lengths={axis: known.proved for axis, known in ranges.items() if known.proved is not None},
    )
    first, *others = artifact.steps
    options = {**first.options, _RECORD: to_plain(record, "tower")}
    return replace(artifact, steps=(replace(first, options=options), *others))


def record_of(steps: tuple[Step, ...]) -> TowerRecord:
    """Return the record in the steps of a tower's artifact."""
    found: TowerRecord = from_plain(steps[0].options[_RECORD], TowerRecord)
    return found


@dataclass(kw_only=True, slots=True)
class TowerCalls:
    """The calls of one tower in a backend.

    Attributes:
        run: runs its session.
    """

    record: TowerRecord
    inputs: tuple[TensorSpec, ...]
    run: RunPart
    _build: Build = field(init=False)

    def __post_init__(self) -> None:
        self._build = build_from(self.record.structure, own_classes=True, in_memory=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> TowerCalls:
        return self  # copies of the original share it

    def answer(self, call: Call | None) -> Any:
        """Return what the tower answers; None: it was not compared for calls like this one."""
        if call is None or not self._takes(call):
            return None
        arrays = {name: tensor.detach().contiguous().numpy() for name, tensor in call.tensors.items()}
        return self._build({name: torch.from_numpy(array) for name, array in self.run(arrays).items()})

    def _takes(self, call: Call) -> bool:
        tensors, lengths = call.tensors, dict[str, int]()
        if tensors.keys() != {spec.name for spec in self.inputs} or call.constants != self.record.constants:
            return False
        if has_empty_row(tensors):
            return False
        return all(_fits(tensors[spec.name], spec, lengths) for spec in self.inputs) and all(
            axis == _ROWS or least <= lengths.get(axis, least) <= greatest
            for axis, (least, greatest) in self.record.lengths.items()
        )


def _fits(tensor: torch.Tensor, spec: TensorSpec, lengths: dict[str, int]) -> bool:
    """Whether a tensor has the type and the axes of an input; lengths of named axes are added to those known."""
    if tensor.dtype != getattr(torch, spec.dtype) or tensor.ndim != len(spec.shape) or tensor.numel() == 0:
        return False
    return all(
        length == (lengths.setdefault(axis, length) if isinstance(axis, str) else axis)
        for axis, length in zip(spec.shape, tensor.shape, strict=True)
    )


class TowerStub:
    """The methods of a tower's module whose calls go to a backend where it was compared for them."""

    _calls: TowerCalls
    _arguments: inspect.Signature

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = self._calls.answer(call_of(self._arguments, args, kwargs))
        return super().forward(*args, **kwargs) if answer is None else answer  # type: ignore[misc]
