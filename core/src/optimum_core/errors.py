"""The errors and warnings of Optimum Core. Every message names the part that failed, the reason and the remedy.

>>> from optimum_core.errors import InputError
>>> print(InputError("model 'bert'", "input 'input_ids' is missing", "pass input_ids="))
model 'bert': input 'input_ids' is missing
  What to do: pass input_ids=
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Terminal colour codes, which other libraries write into their messages.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class OptimumError(Exception):
    """Base class of all errors that Optimum Core raises on purpose.

    Args:
        who: the part that failed, by the name that users know ("backend 'ort' (optimum-ort 0.1.0)").
        why: the reason, with the values that show it.
        remedy: what the user can do about it.
    """

    def __init__(self, who: str, why: str, remedy: str) -> None:
        why = _COLOURS.sub("", why)
        super().__init__(who, why, remedy)
        self.who = who
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.who}: {self.why}\n  What to do: {self.remedy}"


class PluginError(OptimumError):
    """A plugin is broken, disabled, claimed twice, or breaks the hook contract."""


class UnavailableError(OptimumError):
    """A backend, device, format or package that was asked for is not available here."""


class SourceError(OptimumError):
    """The model given cannot be found, read or understood."""


class ExportError(OptimumError):
    """A model could not be turned into another format."""


class VerificationError(OptimumError):
    """No candidate that was built agrees with the eager model; the message holds the table of candidates tried."""


class EvaluationError(OptimumError):
    """The function or data passed as `evaluate` raised, or gave no finite number, for the eager model."""


class PromiseError(OptimumError):
    """A backend that controls accuracy found no model within the promised accuracy, or not within the time limit."""


class ArtifactError(OptimumError):
    """An artifact on disk is missing, altered, truncated, unsafe or of an unknown schema."""


class TunedElsewhereWarning(UserWarning):
    """An artifact runs on other hardware, or by another backend, than it was tuned for."""


class UnprovedLengthWarning(UserWarning):
    """An input is longer or shorter than those at which the accelerated model was compared with the original."""


class NotTorchError(UnavailableError, AttributeError):
    """An accelerated model is no `torch.nn.Module`: it does not have the parameters, hooks or submodules asked for."""


class UnprovedWarning(UserWarning):
    """A model is returned that was not proved correct for all inputs that it accepts."""


class NoGradientsWarning(UserWarning):
    """An input of an accelerated model requires gradients, and none come back through it."""


class NoBackendWarning(UserWarning):
    """No backend is installed, or none works, so the model stays eager for lack of an alternative."""


class InputError(OptimumError):
    """Inputs passed to a model do not match its signature."""


class OptionError(OptimumError):
    """An option or argument is unknown or has an invalid value."""


class SessionError(OptimumError):
    """A runtime refused to load an artifact or to run its inputs."""


class PrecisionError(SessionError):
    """A runtime cannot open an artifact in the arithmetic that was asked for; in another it can."""


class ResourceError(OptimumError):
    """A temporary fault, which may be gone the next time: no room on disk, no memory, a killed process, no time.

    It says nothing about the model, so decisions made while one occurred are not remembered.
    """


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SCARCE = (*_FULL, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
#: Messages of native code for the same faults, for which it has no class.
_WORDS = re.compile(
    r"bad[_ ]alloc|out of memory|can(?:no|')t allocate memory|failed to allocate|unable to allocate"
    r"|no space left on device|disk quota exceeded|killed signal|signal 9\b",
    re.IGNORECASE,
)
#: Bytes of free disk space below which a failure to write files is attributed to the disk.
_ROOM = 4 << 20
_FREE = "free room on the disk that holds TMPDIR and the cache, or memory, and try again"


def is_momentary(error: BaseException) -> bool:
    """Whether an error or one of its causes is a temporary fault: no room, no memory, a killed process."""
    for item in _chain(error):
        if isinstance(item, (ResourceError, MemoryError)) or getattr(item, "returncode", None) in (-9, 137):
            return True
        if isinstance(item, OSError) and item.errno is not None:
            if item.errno in _SCARCE:
                return True
        elif _WORDS.search(str(item)):
            return True
    return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def translated(error: BaseException, otherwise: type[OptimumError], who: str, why: str, remedy: str) -> OptimumError:
    """Return the error to raise from one of another library: `ResourceError` for a temporary fault, else `otherwise`.

    >>> type(translated(MemoryError(), ExportError, "backend 'acme'", "MemoryError", "use another route"))
    <class 'optimum_core.errors.ResourceError'>
    """
    if is_momentary(error):
        return ResourceError(who, why, _FREE)
    return otherwise(who, why, remedy)


def fault_of_the_moment(who: str, error: BaseException) -> ResourceError | None:
    """Return the `ResourceError` that an error is or amounts to; None where it is not a temporary fault."""
    if isinstance(error, ResourceError):
        return error
    why = error.why if isinstance(error, OptimumError) else f"{type(error).__name__}: {error}"
    return ResourceError(who, why, _FREE) if is_momentary(error) else None


def momentary(error: OptimumError) -> OptimumError:
    """Return the error itself, or a `ResourceError` with its message where a temporary fault caused it."""
    if isinstance(error, ResourceError) or not is_momentary(error):
        return error
    return ResourceError(error.who, error.why, _FREE)


@contextmanager
def noticing_full_disks(folder: Path, who: str) -> Iterator[None]:
    """Raise `ResourceError` for any error within where `folder`, or the directory of temporary files, is full.

    Native writers only report "iostream error", "Protobuf serialization failed", and the like.

    Raises:
        ResourceError: in place of any other error, if no room is left.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        from tempfile import gettempdir

        full = next((place for place in (folder, gettempdir()) if _is_full(place)), None)
        if full is None:
            raise
        told = f"{error.who}: {error.why}" if isinstance(error, OptimumError) else f"{type(error).__name__}: {error}"
        raise ResourceError(who, f"no room is left in {full} ({told})", _FREE) from error


def _is_full(folder: Path | str) -> bool:
    from shutil import disk_usage

    try:
        return disk_usage(folder).free < _ROOM
    except OSError:
        return False


def ended(code: int, otherwise: type[OptimumError], who: str, what: str, said: str, remedy: str) -> OptimumError:
    """Return the error to raise where a child process failed.

    Args:
        code: its exit code; if negative, the signal that ended it, as in `subprocess`.
        what: the work it had to do ("optimized it").
        said: the end of its output, if there was any.

    >>> ended(-11, ExportError, "backend 'acme'", "optimized it", "", "use another level").why
    'the process that optimized it ended by signal 11 (SIGSEGV)'
    """
    if code >= 0:
        why = said or f"the process that {what} ended with code {code}"
    else:
        try:
            name = f" ({signal.Signals(-code).name})"
        except ValueError:
            name = ""
        why = f"the process that {what} ended by signal {-code}{name}"
    if code == -9 or is_momentary(RuntimeError(why)):
        return ResourceError(who, why, _FREE)
    return otherwise(who, why, remedy)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or the name of its type.

    >>> first_line(ValueError("\\n cannot convert\\n  node 3"))
    'cannot convert'
    """
    return next((text for line in str(error).splitlines() if (text := line.strip())), type(error).__name__)


#: Characters of another library's message to keep in ours: some print a whole graph.
_LONGEST = 500


def brief(error: BaseException) -> str:
    """Return the message of another library's error on one line, cut to its first 500 characters.

    >>> brief(ValueError("cannot convert\\n  node 3"))
    'cannot convert node 3'
    """
    lines = (line.strip() for line in str(error).splitlines())
    text = " ".join(line for line in lines if line)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@contextmanager
def foreign_errors(
    who: str,
    kind: type[OptimumError],
    remedy: str,
    *,
    doing: str = "",
    catching: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Iterator[None]:
    """Turn an exception of another library into an `OptimumError`: "TypeName: its message", with it as the cause.

    Converters and runtimes raise exceptions of any class on a model that they do not support. Errors of ours pass
    unchanged, and a temporary fault (no memory, no room on disk) becomes a `ResourceError`.

    Args:
        who: whom the error names.
        remedy: what the error says can be done.
        kind: class of the error that is raised.
        doing: text placed before the message ("static-int8 failed").
        catching: exception classes to convert; all others pass.

    >>> with foreign_errors("backend 'acme'", ExportError, "use another backend"):
    ...     {}["weight"]
    Traceback (most recent call last):
    optimum_core.errors.ExportError: backend 'acme': KeyError: 'weight'
      What to do: use another backend
    """
    try:
        yield
    except OptimumError:
        raise
    except catching as error:
        why = f"{type(error).__name__}: {brief(error)}"
        raise translated(error, kind, who, f"{doing}: {why}" if doing else why, remedy) from error
