"""Helpers for sessions: running only the backend's own, reading inputs, and errors for wrong inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from optimum_core.errors import InputError, SessionError
from optimum_core.types import Array, Session, TensorSpec
from optimum_core.types.state import EMBEDS

Result = TypeVar("Result")

#: Exceptions that numpy, torch and the runtimes raise for values that they cannot read through DLPack.
_UNREADABLE = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)


def run_own(backend: str, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Return the result of the session's `run` if it belongs to `backend`, else None: a complete `infer` hook.

    >>> @hookimpl  # doctest: +SKIP
    ... def infer(session, inputs):
    ...     return run_own("acme", session, inputs)
    """
    own: Any = session  # a backend's own sessions have `run`
    return own.run(inputs) if own.backend == backend else None


def closed(who: str) -> SessionError:
    """Return the error for a call of a session that was closed."""
    return SessionError(who, "the session is closed", "load the artifact again")


def check_names(who: str, names: Sequence[str], inputs: Mapping[str, Any]) -> None:
    """Reject a call whose inputs are not exactly `names`.

    Raises:
        InputError: an input is missing or unknown.

    >>> check_names("backend 'acme'", ["input_ids"], {"ids": None})
    Traceback (most recent call last):
    optimum_core.errors.InputError: backend 'acme': wrong inputs (missing: input_ids; unknown: ids)
      What to do: pass exactly: input_ids
    """
    if len(inputs) == len(names) and all(name in inputs for name in names):
        return
    differences = {
        "missing": [name for name in names if name not in inputs],
        "unknown": [name for name in inputs if name not in names],
    }
    told = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in differences.items() if found)
    raise InputError(who, f"wrong inputs ({told})", f"pass exactly: {', '.join(names)}")


def check_turn(who: str, inputs: Mapping[str, Any], rows: int, length: int) -> int:
    """Return the number of new tokens of a call on a state; reject shapes that a runtime would broadcast.

    Args:
        inputs: with "input_ids" [rows, new] or "inputs_embeds" [rows, new, width], and with "attention_mask"
            [rows, length + new].
        rows: the rows of the state.
        length: the positions that it holds.

    Raises:
        InputError: the rows are not those of the state, or the mask is not of all positions.
    """
    given, new = inputs[EMBEDS if EMBEDS in inputs else "input_ids"].shape[:2]
    if given != rows:
        raise InputError(who, f"{given} rows came, and the state has {rows}", "begin a state for them")
    mask, needed = tuple(inputs["attention_mask"].shape), (rows, length + new)
    if mask != needed:
        why = f"attention_mask is {list(mask)}, and the state needs {list(needed)}"
        raise InputError(who, why, "state the mask of all positions, those in the state first")
    return int(new)


def read_input(
    who: str, name: str, value: Any, reader: Callable[[Any], Result], where: str = "in host memory"
) -> Result:
    """Return the result of `reader`, such as `np.from_dlpack`, for a value that supports DLPack.

    Args:
        where: the memory that it can read.

    Raises:
        InputError: the value is no array, or is in other memory.
    """
    try:
        return reader(value)
    except _UNREADABLE as error:
        why = f"input {name!r} is a {type(value).__name__} that cannot be read without a copy: {error}"
        raise InputError(who, why, f"pass a numpy array, or a detached tensor {where}") from error


def described(specs: Iterable[TensorSpec]) -> str:
    """Return names, types and shapes as text for a message.

    >>> described([TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))])
    "input_ids: int64['batch', 8]"
    """
    return ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in specs)
