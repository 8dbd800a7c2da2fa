"""Limitations for a probe's result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optimum_core.packages import missing
from optimum_core.types import Limitation


def limits(what: str, needs: Iterable[str], remedy: str, **further: Any) -> list[Limitation]:
    """Return a list with the limitation caused by packages that are not installed; empty where all are.

    Args:
        what: what cannot be done without them, and `remedy`, what the user can do about it.
        needs: packages, by their import names.
        further: fields of `Limitation`, such as `hook`.

    >>> limits("export to acme", ["json", "acme"], "pip install acme", hook="export")[0].reason
    'acme is not installed'
    """
    lacking = missing(needs)
    verb = "is" if len(lacking) == 1 else "are"
    reason = f"{', '.join(lacking)} {verb} not installed"
    return [Limitation(what=what, reason=reason, remedy=remedy, **further)] if lacking else []
