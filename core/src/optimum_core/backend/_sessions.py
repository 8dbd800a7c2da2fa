"""What every session has to answer: calls of its own only, and errors that say what was wrong with the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

from optimum_core.errors import InputError, SessionError
from optimum_core.types import Array, Session, TensorSpec

Result = TypeVar("Result")

#: What numpy, torch and the runtimes raise on values that they cannot read through DLPack.
_UNREADABLE = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)


class _Runs(Protocol):
    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...


def run_own(backend: str, session: Session, inputs: Mapping[str, Array]) -> Mapping[str, Array] | None:
    """Return what the session's `run` gives where it is one of `backend`, else None: the whole of a hook `infer`.

    >>> @hookimpl  # doctest: +SKIP
    ... def infer(session, inputs):
    ...     return run_own("acme", session, inputs)
    """
    return cast(_Runs, session).run(inputs) if session.backend == backend else None


def closed(who: str) -> SessionError:
    """Return the error of a call on a session that was closed."""
    return SessionError(who, "the session is closed", "load the artifact again")


def check_names(who: str, names: Sequence[str], inputs: Mapping[str, Any]) -> None:
    """Refuse a call with other inputs than `names`.

    Raises:
        InputError: one is missing, or there are more.

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


def read_input(
    who: str, name: str, value: Any, reader: Callable[[Any], Result], where: str = "in host memory"
) -> Result:
    """Return what `reader` makes of a value that speaks DLPack, such as `np.from_dlpack`.

    Args:
        where: the memory that it can read.

    Raises:
        InputError: the value is no array, or lies elsewhere.
    """
    try:
        return reader(value)
    except _UNREADABLE as error:
        why = f"input {name!r} is a {type(value).__name__} that cannot be read without a copy: {error}"
        raise InputError(who, why, f"pass a numpy array, or a detached tensor {where}") from error


def described(specs: Iterable[TensorSpec]) -> str:
    """Return names, types and shapes for a message.

    >>> described([TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))])
    "input_ids: int64['batch', 8]"
    """
    return ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in specs)
