"""Errors of requests: each has a status of HTTP, and a message that says what to do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from optimum_core.errors import InputError, OptimumError, OptionError, UnavailableError


@dataclass(kw_only=True, eq=False)
class RequestError(Exception):
    """A request that gets no answer, and why.

    Attributes:
        status: of HTTP.
        kind: a word for programs, such as "too_long".
        message: for people.
        field: of the request that is at fault, as "messages[0].role"; empty: no single one.
        headers: of the answer.
    """

    status: int
    kind: str
    message: str
    field: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def busy(message: str, seconds: float) -> RequestError:
    """Return the problem of a full queue; `seconds` is when to come again."""
    return RequestError(
        status=429, kind="overloaded", message=message, headers={"Retry-After": str(max(1, round(seconds)))}
    )


def invalid(message: str, kind: str = "invalid_request", status: int = 422, field: str = "") -> RequestError:
    """Return the problem of a request that makes no sense."""
    return RequestError(status=status, kind=kind, message=message, field=field)


def empty(what: str, field: str = "") -> RequestError:
    """Return the problem of a request that has nothing to answer; `what` is the field, or a part of it."""
    return invalid(f"{what} is empty", "empty", 400, field)


def of_error(error: OptimumError) -> RequestError:
    """Return the problem that an error of Optimum Core means for a client: its own fault, or the server's."""
    message = f"{error.who}: {error.why}" + (f" ({error.remedy})" if error.remedy else "")
    if isinstance(error, InputError | OptionError):
        return invalid(message, field=error.who if isinstance(error, OptionError) and error.who.isidentifier() else "")
    if isinstance(error, UnavailableError):
        return RequestError(status=501, kind="not_supported", message=message)
    return RequestError(status=500, kind="failed", message="the model could not answer; the server's log says why")
