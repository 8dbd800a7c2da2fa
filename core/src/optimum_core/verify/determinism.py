"""Refusal of models whose outputs follow from more than their inputs: chance, a clock, order, the thread."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from optimum_core.errors import VerificationError, first_line
from optimum_core.models.eager.calls import eager_outputs, inputs_after, is_plain
from optimum_core.models.eager.circumstances import circumstance_that_counts
from optimum_core.models.eager.outside_reads import output_from_outside
from optimum_core.models.eager.randomness import output_by_chance
from optimum_core.types.arrays import NDArray
from optimum_core.verify.comparison import ReferenceCase, compare, tolerance_of


def is_same(a: NDArray, b: NDArray) -> bool:
    """Whether two outputs are equal, or differ by rounding alone."""
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):  # as a rule; a comparison of large outputs takes long
        return True
    return a.shape == b.shape and compare("", {}, "", a, b, tolerance_of("fp32")).passed


def check_repeatable(module: Any, case: ReferenceCase, *, drew: bool) -> None:
    """Refuse a model that answers otherwise the second time, on inputs as the first call has left them.

    Args:
        drew: whether the first call drew random numbers.

    Raises:
        VerificationError: it does.
    """
    changed = inputs_after(module, case.inputs) if case.written else {}
    again = eager_outputs(module, {**case.inputs, **changed})
    for name, want in case.outputs.items():
        if name not in again or again[name].shape != want.shape:
            problem = f"shapes {want.shape} and {again[name].shape if name in again else 'none'}"
        else:
            problem = compare(case.name, {}, name, want, again[name], tolerance_of("fp32")).problem
        if problem:
            if changed:
                raise _changes_inputs(module, tuple(changed))
            raise _by_chance(module, name, problem) if drew else _by_more(module, name, problem)


def check_order(module: Any, case: ReferenceCase) -> None:
    """Refuse a model whose outputs follow the order in which its `**kwargs` come: a graph has names alone.

    Raises:
        VerificationError: they do.
    """
    kinds = [item.kind for item in inspect.signature(module.forward).parameters.values()]
    if len(case.inputs) < 2 or inspect.Parameter.VAR_KEYWORD not in kinds or not is_plain(module):
        return
    who, remedy = f"model {type(module).__name__}", "name the arguments in its forward, in place of **kwargs"
    order = "where its keyword arguments come in another order, which a graph cannot know"
    try:
        again = eager_outputs(module, {name: case.inputs[name] for name in reversed(list(case.inputs))})
    except Exception as error:  # code of the model's
        why = f"eager fails {order}: {type(error).__name__}: {first_line(error)}"
        raise VerificationError(who, why, remedy) from error
    for name, want in case.outputs.items():
        if name not in again or not is_same(want, again[name]):
            raise VerificationError(who, f"eager gives another output {name!r} {order}", remedy)


def check_chance(module: Any, case: ReferenceCase) -> None:
    """Refuse a model whose outputs depend on the random numbers that it draws, however seldom that shows.

    Raises:
        VerificationError: they do.
    """
    name = output_by_chance(module, case.inputs, case.outputs)
    if name is not None:
        raise _by_chance(module, name, "where the numbers drawn are others")


def check_outside(module: Any, case: ReferenceCase) -> None:
    """Refuse a model whose outputs depend on what its forward reads outside: a clock, random bytes of the system, the
    numbers of the process or of torch's threads.

    Raises:
        VerificationError: they do.
    """
    if (found := output_from_outside(module, case.inputs, case.outputs)) is not None:
        output, function = found
        depends = f"output {output!r} depends on the answer" if output else "nothing shows that no output follows it"
        raise VerificationError(
            f"model {type(module).__name__}",
            f"its forward calls {function}, and {depends}; a graph would keep the value of the moment at which it was "
            "exported",
            "call it outside of forward and pass its value as an input, or keep the model eager",
        )


def check_circumstances(module: Any, case: ReferenceCase) -> None:
    """Refuse a model whose outputs follow what no graph knows of a call: its thread, inference mode, where its tensors
    lie in memory.

    Raises:
        VerificationError: they do.
    """
    if (found := circumstance_that_counts(module, case.inputs, case.outputs, is_same)) is not None:
        output, words = found
        raise VerificationError(
            f"model {type(module).__name__}",
            f"eager gives another output {output!r} {words}, which a graph cannot know",
            "let its forward follow the values and shapes of its inputs alone, or keep the model eager",
        )


def _by_chance(module: Any, output: str, problem: str) -> VerificationError:
    return VerificationError(
        f"model {type(module).__name__}",
        f"eager itself gives two values for output {output!r} on the same inputs ({problem}); nothing can be checked "
        "against a model that draws random numbers",
        "make it deterministic (a fixed seed or noise as an input), or keep it eager",
    )


def _by_more(module: Any, output: str, problem: str) -> VerificationError:
    return VerificationError(
        f"model {type(module).__name__}",
        f"eager itself gives two values for output {output!r} on the same inputs ({problem}), also on a copy that has "
        "seen no other call, and it draws no random numbers of torch, numpy or Python: it follows something outside of "
        "the module that calls change (a global variable, an attribute of a class, a mutable default argument, a "
        "closure, a file), or random numbers of its own",
        "keep that in attributes of the module, or pass it as an input; or keep the model eager",
    )


def _changes_inputs(module: Any, names: Sequence[str]) -> VerificationError:
    return VerificationError(
        f"model {type(module).__name__}",
        f"eager changes its own inputs in place ({', '.join(map(repr, names))}), so that a second call on the same "
        "tensors gives other values; a graph leaves its inputs as they are",
        "compute on a copy in its forward (x = x + 1 in place of x += 1)",
    )
