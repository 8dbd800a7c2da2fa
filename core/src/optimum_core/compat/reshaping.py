"""The model that optimum-intel's classes return: it can be reshaped, moved and compiled after it was made."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from optimum_core import AcceleratedModel
from optimum_core.compat.arguments import IgnoredArgumentWarning
from optimum_core.compat.devices import check_device
from optimum_core.compat.opening import FromPretrained

#: Beginnings of the tasks whose second axis is none of tokens.
_NO_TEXT = ("image", "audio", "zero-shot-image", "automatic-speech")


class OVAcceleratedModel(AcceleratedModel):
    """An accelerated model with `reshape`, `half`, `to` and `compile`, which state what to build.

    It is built by `compile`, or by its first use after one of the others: its state is then that of the model which
    `accelerate` or `load` returns.
    """

    _asked: FromPretrained

    def __init__(self, asked: FromPretrained) -> None:
        self._asked = asked

    def compile(self) -> None:
        """Build the model, unless that is done: `accelerate(…)`, or `load(…)`.

        Raises:
            OptimumError: as `accelerate` and `load`.
        """
        if not self._is_built:
            vars(self).update(vars(self._asked.open()))

    def reshape(
        self, batch_size: int, sequence_length: int, height: int | None = None, width: int | None = None
    ) -> Self:
        """State the lengths of the calls, and return the model: `shapes=[{"batch": 1, "sequence": 128}]`.

        Calls of other lengths stay right here; those stated decide what is fastest.

        Args:
            batch_size: the number of rows; -1: any.
            sequence_length: the number of tokens, -1: any; of pictures and sounds, it changes nothing.
            height, width: of pictures, whose sizes the model or its processor gives; they change nothing.
        """
        if self._asked.is_made:
            why = f"{str(self._asked.place)!r} is opened as it was built"
            warnings.warn(f"reshape has no effect: {why}", IgnoredArgumentWarning, stacklevel=2)
            return self
        of_text = height is None and not str(self._asked.further.get("task") or "").startswith(_NO_TEXT)
        lengths = {"batch": batch_size, **({"sequence": sequence_length} if of_text else {})}
        stated = {axis: length for axis, length in lengths.items() if length != -1}
        return self._to_build(replace(self._asked, shapes=[stated] if stated else None))

    def half(self) -> Self:
        """Halve the weights, and return the model: `quantize="weight-only-fp16"`."""
        return self._to_build(replace(self._asked, further={**self._asked.further, "quantize": "weight-only-fp16"}))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model for another device of OpenVINO, by its name; otherwise as every accelerated model.

        Raises:
            UnavailableError: nothing here runs on it.
        """
        if len(args) != 1 or not isinstance(args[0], str):
            return super().to(*args, **kwargs)
        from optimum_core.compat.intel import target_of

        target = target_of(args[0])
        check_device(self._asked.who, "device", args[0], target)
        return self if target == self._asked.target else self._to_build(replace(self._asked, target=target))

    @property
    def model_save_dir(self) -> Path:
        """The directory of its files, by optimum-intel's name."""
        return self.directory

    def close(self) -> None:
        """Free the resources of the runtime."""
        if self._is_built:
            super().close()

    @property
    def _is_built(self) -> bool:
        return "_session" in vars(self)

    def _to_build(self, asked: FromPretrained) -> Self:
        """Keep what to build, and nothing of what was built before."""
        self.close()
        vars(self).clear()
        self._asked = asked
        return self

    def __getattr__(self, name: str) -> Any:
        if self._is_built or name.startswith("__") or "_asked" not in vars(self):
            return super().__getattr__(name)
        self.compile()
        return getattr(self, name)

    def __repr__(self) -> str:
        return super().__repr__() if self._is_built else f"<{self._asked.who}: not compiled yet>"
