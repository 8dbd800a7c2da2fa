"""Options of a session, checked before the runtime sees them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from optimum_core.errors import OptionError
from optimum_inc.machine import BACKEND


@dataclass(frozen=True, kw_only=True, slots=True)
class InductorOptions:
    """How a session runs.

    Attributes:
        num_runners: calls that run side by side, at least 1; further ones wait. None: from the request.
    """

    num_runners: int | None = None

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> InductorOptions:
        """Build from what a user gave.

        Raises:
            OptionError: a name is unknown (the message names the nearest one), or a value is not allowed.
        """
        known = [item.name for item in fields(cls)]
        for name in options:
            if name not in known:
                raise _unknown(name, known)
        runners = options.get("num_runners")
        if runners is not None and not (isinstance(runners, int) and not isinstance(runners, bool) and runners >= 1):
            why = f"option 'num_runners' cannot be {runners!r}"
            raise OptionError(f"backend '{BACKEND}'", why, "give a whole number of calls, at least 1, or None")
        return cls(**options)


def _unknown(name: str, known: list[str]) -> OptionError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(known)}"
    return OptionError(f"backend '{BACKEND}'", f"unknown option {name!r}", remedy)
