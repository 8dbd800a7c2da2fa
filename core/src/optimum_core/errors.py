"""One family of errors. Every message says who failed, why, and what to do.

>>> from optimum_core.errors import InputError
>>> print(InputError("model 'bert'", "input 'input_ids' is missing", "pass input_ids="))
model 'bert': input 'input_ids' is missing
  What to do: pass input_ids=
"""

from __future__ import annotations

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


class NoBackendWarning(UserWarning):
    """No backend is installed, or none works, so that a model stays eager for want of anything else."""


class InputError(OptimumError):
    """Inputs given to a model are not what it takes."""


class OptionError(OptimumError):
    """An option or argument is unknown or has a value that makes no sense."""


class SessionError(OptimumError):
    """A runtime refused to load or to run what it was given."""
