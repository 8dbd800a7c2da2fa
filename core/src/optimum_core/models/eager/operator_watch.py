"""The base of modes that watch the operators of an eager call, also those that call functions: `torch.cond`,
`while_loop`, `scan`.

Such an operator runs through `torch.compile` in eager too. Under a mode of another kind it fails, and torch keeps that:
the same function fails in every later call of this process, the user's own ones. So nothing is compiled while a mode
watches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch._higher_order_ops.cond import cond_op
from torch._higher_order_ops.while_loop import while_loop_op
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run what `torch.compile` compiles as it stands within the block, and keep nothing of that."""
    with torch.compiler.set_stance("force_eager"):
        yield


class OperatorWatch(TorchDispatchMode):  # type: ignore[no-untyped-call] # of torch
    """A mode that is given every operator of a call, also those within functions that operators call."""

    supports_higher_order_operators = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call] # of torch

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self._stances = list[Any]()

    def __enter__(self) -> Self:
        stance = uncompiled()
        stance.__enter__()
        self._stances.append(stance)
        super().__enter__()  # type: ignore[no-untyped-call] # of torch
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call] # of torch
        self._stances.pop().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not isinstance(func, HigherOrderOperator):
            return self.run(func, args, kwargs or {})
        if func is cond_op:
            return self._cond(*args)
        if func is while_loop_op:
            return self._while_loop(*args)
        return func(*self._watched(args), **self._watched(kwargs or {}))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what an operator gives for these arguments: every subclass states it."""
        raise NotImplementedError

    def _cond(self, chosen: Any, taken: Callable[..., Any], other: Callable[..., Any], operands: Any) -> Any:
        with self:
            return (taken if chosen else other)(*operands)

    def _while_loop(self, goes_on: Callable[..., Any], body: Callable[..., Any], carried: Any, others: Any) -> Any:
        with self:
            carried = tuple(item.clone() if isinstance(item, torch.Tensor) else item for item in carried)
            while goes_on(*carried, *others):
                carried = body(*carried, *others)
        return carried

    def _watched(self, arguments: Any) -> Any:
        """Return arguments with functions that run under this mode."""

        def with_mode(item: Any) -> Any:
            if isinstance(item, torch.Tensor) or not callable(item):
                return item

            def run(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return item(*args, **kwargs)

            return run

        return tree_map(with_mode, arguments)
