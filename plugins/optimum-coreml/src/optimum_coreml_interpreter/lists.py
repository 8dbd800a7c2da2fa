"""Lists of tensors of one shape. A list is immutable: writing returns another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from optimum_coreml_interpreter.elementwise import storage_of
from optimum_coreml_interpreter.registry import UndefinedError, flag, integer, integers, operator

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorList:
    """Elements by index; None: nothing was written there yet."""

    elements: tuple[Tensor | None, ...]
    dtype: torch.dtype
    grows: bool

    def at(self, place: int) -> Tensor:
        """Return the element at an index.

        Raises:
            UndefinedError: it was not written.
        """
        found = self.elements[place] if 0 <= place < len(self.elements) else None
        if found is None:
            raise UndefinedError(f"element {place} of a list of {len(self.elements)}, which was never written")
        return found

    def written(self, place: int, value: Tensor) -> TensorList:
        """Return another list, longer where the index lies beyond the last."""
        known = next((item for item in self.elements if item is not None), value)
        if value.dtype != self.dtype or value.shape != known.shape:
            raise UndefinedError(f"{value.dtype} of {tuple(value.shape)} for a list of {self.dtype}")
        if place < 0 or (place >= len(self.elements) and not self.grows):
            raise UndefinedError(f"place {place} in a list of {len(self.elements)}")
        elements = [*self.elements, *[None] * (place + 1 - len(self.elements))]
        elements[place] = value
        return TensorList(elements=tuple(elements), dtype=self.dtype, grows=self.grows)


@operator("make_list")
def _make_list(
    elem_shape: Sequence[Tensor | str] | Tensor = (),
    init_length: Tensor | int = 1,
    dynamic_length: Tensor | bool = True,
    dtype: str = "fp32",
) -> TensorList:
    """Return a list in which nothing was written. Named (unknown) lengths of its shape are set by the first write."""
    return TensorList(elements=(None,) * integer(init_length), dtype=storage_of(dtype), grows=flag(dynamic_length))


@operator("list_length")
def _list_length(ls: TensorList) -> Tensor:
    return torch.tensor(len(ls.elements), dtype=torch.int32)


@operator("list_write")
def _list_write(ls: TensorList, index: Tensor | int, value: Tensor) -> TensorList:
    return ls.written(integer(index), value)


@operator("list_read")
def _list_read(ls: TensorList, index: Tensor | int) -> Tensor:
    return ls.at(integer(index))


@operator("list_gather")
def _list_gather(ls: TensorList, indices: Tensor) -> Tensor:
    return torch.stack([ls.at(place) for place in integers(indices)])


@operator("list_scatter")
def _list_scatter(ls: TensorList, indices: Tensor, value: Tensor) -> TensorList:
    for place, row in zip(integers(indices), value, strict=True):
        ls = ls.written(place, row)
    return ls
