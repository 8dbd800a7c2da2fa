"""One family of errors. Every message says who failed, why, and what to do.

>>> from optimum_core.errors import InputError
>>> print(InputError("model 'bert'", "input 'input_ids' is missing", "pass input_ids="))
model 'bert': input 'input_ids' is missing
  What to do: pass input_ids=
"""

from __future__ import annotations

import errno
import re

#: Colours of a terminal, which other libraries write into their messages.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class OptimumError(Exception):
    """Base of everything that Optimum Core raises on purpose.

    Args:
        who: the part that failed, by the name its user knows ("backend 'ort' (optimum-ort 0.1.0)").
        why: what went wrong, with the values that show it.
        remedy: what the reader can do about it.
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
    """What was asked for is not here: a backend, a device, a format, a package."""


class SourceError(OptimumError):
    """The model given cannot be found, read or understood."""


class ExportError(OptimumError):
    """A model could not be turned into another format."""


class VerificationError(OptimumError):
    """Nothing that was built agrees with the eager model; the message holds the table of what was tried."""


class EvaluationError(OptimumError):
    """What was passed as `evaluate` raised, or gave no finite number, for the eager model."""


class PromiseError(OptimumError):
    """A backend that controls accuracy found nothing that keeps what was promised, or not in the time that it had."""


class ArtifactError(OptimumError):
    """An artifact on disk is missing, altered, truncated, unsafe or of an unknown schema."""


class TunedElsewhereWarning(UserWarning):
    """An artifact runs on other hardware than it was tuned on."""


class ResourceError(OptimumError):
    """A fault of the moment: no room on a disk, no memory, a process that was killed. Nothing is concluded from it."""


class UnprovedWarning(UserWarning):
    """A model is handed out that was not proved to be right for everything that it takes."""


class InputError(OptimumError):
    """Inputs given to a model are not what it takes."""


class OptionError(OptimumError):
    """An option or argument is unknown or has a value that makes no sense."""


class SessionError(OptimumError):
    """A runtime refused to load or to run what it was given."""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
_NO_MEMORY_WORDS = ("bad_alloc", "Cannot allocate memory")


def fault_of_the_moment(who: str, error: BaseException) -> ResourceError | None:
    """What an error is where the machine had no room for the work, rather than the work being impossible; else None.

    Args:
        who: the part that failed.
        error: with the errors that caused it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ResourceError):
            return cause
        if isinstance(cause, MemoryError) or any(words in str(cause) for words in _NO_MEMORY_WORDS):
            return ResourceError(who, f"no memory is left for it: {cause!r}", "free some, and try again")
        full = isinstance(cause, OSError) and cause.errno in _FULL
        if full or any(words in str(cause) for words in _FULL_WORDS):
            return ResourceError(
                who, f"there is no room left for it: {cause}", "free some, or set TMPDIR to another disk"
            )
        cause = cause.__cause__
    return None
