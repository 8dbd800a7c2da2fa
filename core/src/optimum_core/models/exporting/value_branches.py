"""Detection of value-dependent branches: places where a model's Python code reads input values, which a trace fixes.

`if pixels.max() > 2: ...` is traced as the side that the samples took, and `int(lengths.max())` as its value then.
torch warns of every such read while it traces, and also of those that depend on shapes alone. One eager call tells them
apart: lengths are Python integers there, so that a read from a tensor is a read of a value. Of those, only reads of
values that come from the inputs count: a weight's value is the same in every call. Lengths that follow values are
followed too (`nonzero`, `x[x > 0]`). `value_checks` finds by the same reads the places that only raise.
"""

from __future__ import annotations

import ast
import linecache
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple

import torch
from torch.jit._trace import TracerWarning
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from optimum_core.models.eager import operator_watch
from optimum_core.models.eager.operator_watch import OperatorWatch
from optimum_core.models.exporting import rewriting
from optimum_core.models.exporting.rewriting.traced_lengths import traced_rounding
from optimum_core.models.signatures import followed_numbers, size_records
from optimum_core.models.signatures.followed_numbers import followed
from optimum_core.models.signatures.size_records import RecordingShape, functions_followed
from optimum_core.models.signatures.size_terms import Term

#: A file and a line.
Place = tuple[str, int]

_TORCH = str(Path(torch.__file__).parent)
#: Files whose frames lie between the model's code and this module.
_BETWEEN = (
    _TORCH, __file__, operator_watch.__file__, followed_numbers.__file__, size_records.__file__, warnings.__file__,
    *rewriting.__path__,
)  # fmt: skip
#: Functions of modes that an exporter puts around the model's code, and one of transformers that checks for its caller.
_HELPERS = frozenset({"__torch_function__", "__torch_dispatch__", "torch_compilable_check"})
#: Functions that read values, of which torch does not warn while it traces.
_SILENT_READS = frozenset({
    torch.equal, torch.Tensor.equal, torch.allclose, torch.Tensor.allclose, torch.is_nonzero, torch.Tensor.is_nonzero,
    torch.Tensor.untyped_storage, torch.Tensor.storage, torch.Tensor.__dlpack__,
    torch.Tensor.__reduce_ex__,
})  # fmt: skip
#: Functions that give a tensor's lengths to Python.
_LENGTHS = frozenset({
    torch.Tensor.__len__, torch.Tensor.numel, torch.numel, torch.Tensor.nelement, torch.Tensor.size,
    torch.Tensor.shape.__get__,  # type: ignore[attr-defined] # of a property
})  # fmt: skip
#: Those that multiply them.
_PRODUCTS = frozenset({torch.Tensor.numel, torch.numel, torch.Tensor.nelement})
#: Operators whose output has the lengths of their first input, whatever the others have.
_AS_THE_FIRST = ("scatter", "index_put", "index_add", "index_copy", "index_fill", "masked_fill")
#: Functions that read a tensor's memory without an operator.
_MEMORY_READS = _SILENT_READS | {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__}
#: Parts of operator names that take a tensor's shape and type, and no value.
_LIKE = ("_like", "new_empty", "new_full", "new_ones", "new_zeros", "sym_")
_REMARKS = frozenset({"debug", "info", "warn", "warning", "warning_once"})
#: Functions of torch and transformers that raise where a condition is false, and do nothing else.
_CHECKS = frozenset({
    "torch_compilable_check", "_check", "_check_value", "_check_with", "_check_tensor_all", "_assert", "_assert_async",
})  # fmt: skip


class _Complaint(NamedTuple):
    """A condition behind which a model ends by raising, or only logs and warns.

    Attributes:
        first, last: the lines of the condition.
        end: the last line of what follows.
        raises: whether it raises.
    """

    first: int
    last: int
    end: int
    raises: bool


@contextmanager
def traced_reads(*, rounds: bool = True) -> Iterator[set[Place]]:
    """Collect places of Python code that take a number or a list from a traced tensor while the block runs.

    Args:
        rounds: whether lengths that are rounded there stay traced; False: `torch.export` runs, which follows them by
            itself, and needs Python's own functions.
    """
    places: set[Place] = set()
    before = warnings.showwarning

    def noted(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, TracerWarning):
            places.add(_place())
        else:
            before(message, category, *rest, **more)

    with traced_rounding() if rounds else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("always", TracerWarning)
        warnings.showwarning = noted
        with _SilentReads(places):
            yield places


def value_branches(traced: set[Place], module: Callable[..., Any], samples: Sequence[torch.Tensor]) -> tuple[str, ...]:
    """Return those of the traced places that read an input's value: "file.py:line", in order.

    A branch that only raises or warns does not count: if it is not taken, the rest is the same.

    Args:
        module: the traced module; it is called once more, as it was traced, if there are places to check.
    """
    asked = {place for place in traced if _complaint(*place) is None}
    return tuple(map(named, sorted(asked & _value_reads(module, samples)))) if asked else ()


def value_checks(module: Callable[..., Any], samples: Sequence[torch.Tensor]) -> tuple[Place, ...]:
    """Return the places where a model raises for some values of its inputs, which no export does, in order.

    Args:
        module: it is called once; what it raises passes through.
    """
    places = ((place, _complaint(*place)) for place in _value_reads(module, samples, counts_alone=True))
    return tuple(sorted(place for place, found in places if found is not None and found.raises))


def named(place: Place) -> str:
    """Return "file.py:line"."""
    return f"{Path(place[0]).name}:{place[1]}"


def raised_at(place: Place, error: BaseException) -> bool:
    """Whether an error is that of the check at this place."""
    (file, line), complaint = place, _complaint(*place)
    lines = range(complaint.first, complaint.end + 1) if complaint is not None else (line,)
    return any(frame.filename == file and frame.lineno in lines for frame in extract_tb(error.__traceback__))


def _value_reads(
    module: Callable[..., Any], samples: Sequence[torch.Tensor], *, counts_alone: bool = False
) -> set[Place]:
    """Return places that read a value which depends on the samples' values, in one eager call."""
    reads = _Reads(samples, counts_alone=counts_alone)
    with torch.no_grad(), functions_followed(), _MemoryReads(reads), reads:
        module(*samples)
    return reads.places


class _Reads(OperatorWatch):
    """Tracker of values that derive from some tensors in an eager call; it records where Python reads one.

    Args:
        counts_alone: of lengths that follow values, only those of what was counted or chosen are tracked, and not what
            is computed with it: other tensors may have the same length by chance.
    """

    def __init__(self, samples: Iterable[torch.Tensor], *, counts_alone: bool) -> None:
        super().__init__()
        self.places: set[Place] = set()
        self._counts_alone = counts_alone
        self._derived = WeakIdKeyDictionary()
        self._sized = WeakIdKeyDictionary()  # by tensor, those of its lengths that follow values
        for sample in samples:
            self._derived[sample] = True

    def derives(self, values: Any) -> bool:
        return any(isinstance(leaf, torch.Tensor) and leaf in self._derived for leaf in tree_leaves(values))

    def lengths(self, values: Any) -> set[int]:
        """Return the lengths of tensors among these that follow the samples' values."""
        tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
        found = (self._sized[leaf] for leaf in tensors if leaf in self._sized)
        return set[int]().union(*found)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        given = (args, kwargs)
        made = func(*args, **kwargs)
        if not self.derives(given) and not self.lengths(given):
            return made
        lengths, has_values = self._sizes(func, args, given, made), not any(part in func.name() for part in _LIKE)
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                if has_values:
                    self._derived[leaf] = True
                if own := lengths & {*leaf.shape}:
                    self._sized[leaf] = own
            elif has_values and isinstance(leaf, bool | int | float | complex):
                self.places.add(_place())
        if func.name().startswith("aten::_assert"):
            self.places.add(_place())
        return made

    def _sizes(self, func: Any, args: Any, given: Any, made: Any) -> set[int]:
        """Return the lengths that follow values in an operator's outputs: those of `nonzero`, `unique`, `x[x > 0]`, and
        of what is computed with these."""
        if any(part in func.name() for part in _AS_THE_FIRST):
            return set() if self._counts_alone else self.lengths(args[:1])
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        first = next((leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor) and leaf.ndim), None)
        if first is not None and by_mask:
            return {*first.shape} - {*args[0].shape[1:]}
        if first is not None and torch.Tag.dynamic_output_shape in func.tags:
            return {first.shape[args[1] if "unique_dim" in func.name() else 0]}
        return set() if self._counts_alone else self.lengths(given)


class _SilentReads(TorchFunctionMode):
    """Recorder of places that read values of which torch does not warn."""

    def __init__(self, places: set[Place]) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SILENT_READS:
            self._places.add(_place())
        return func(*args, **(kwargs or {}))


class _MemoryReads(TorchFunctionMode):
    """Recorder of places where Python reads a whole tensor, which no operator shows, or a length that follows values,
    and of those where it compares such a length."""

    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MEMORY_READS and self._reads.derives(args):
            self._reads.places.add(_place())
        found = func(*args, **(kwargs or {}))
        if func not in _LENGTHS or not (lengths := self._reads.lengths(args)):
            return found
        self._reads.places.add(_place())
        if isinstance(found, tuple):
            return RecordingShape(followed(length, self) if length in lengths else length for length in found)
        return followed(found, self) if found in lengths or func in _PRODUCTS else found

    def compared(self, name: str, left: Term, right: Term) -> None:
        """Record the place of a comparison of a length, whose method calls this one."""
        self._reads.places.add(_place())

    def looked_up(self, name: str, size: Term) -> None:
        """Record the place where a length is looked up, or made a plain number."""
        self._reads.places.add(_place())


def _place() -> Place:
    """Return the innermost place in code that is neither torch's nor a helper's (`_BETWEEN`, `_HELPERS`)."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(_BETWEEN) or frame.f_code.co_name in _HELPERS
    ):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _complaint(file: str, line: int) -> _Complaint | None:
    """Return the complaint whose condition is on this line, or None."""
    return next((found for found in _complaints(file) if found.first <= line <= found.last), None)


@cache
def _complaints(file: str) -> tuple[_Complaint, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # no Python source
        return ()
    found = []
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
        end = node.end_lineno or node.lineno
        if isinstance(node, ast.If) and not node.orelse:
            raises = isinstance(node.body[-1], ast.Raise)
            if raises or all(_called(statement) in _REMARKS for statement in node.body):
                found.append(_Complaint(node.lineno, node.test.end_lineno or node.lineno, end, raises))
        elif isinstance(node, ast.Assert) or _called(node) in _CHECKS:
            found.append(_Complaint(node.lineno, end, end, raises=True))
    return tuple(found)


def _called(statement: ast.stmt) -> str:
    """Return the name of the function if a statement is one call and nothing else; "" otherwise."""
    called = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
