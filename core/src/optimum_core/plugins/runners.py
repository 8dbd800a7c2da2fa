"""Functions that run a session: of its backend's hook, or the session's own where nothing wraps the hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import pluggy

from optimum_core.plugins.contract import wraps
from optimum_core.types import Array, Session

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Runner = Callable[[Session, Mapping[str, Array]], Mapping[str, Array] | None]


class Direct(NamedTuple):
    """A session's own function, called in place of the hook as long as `runners[backend]` is `runner`: then no plugin
    wraps the hook. It takes host arrays by name, as `infer`, and returns outputs in the session's order."""

    call: Callable[[Mapping[str, Array]], Sequence[Array]]
    runners: Mapping[str, Runner]
    backend: str
    runner: Runner


def own_runner(caller: pluggy.HookCaller) -> Runner | None:
    """Return a backend's own function for `infer`, if no plugin wraps it."""
    impls = caller.get_hookimpls()
    plain = len(impls) == 1 and not wraps(impls[0]) and tuple(impls[0].argnames) == ("session", "inputs")
    return cast(Runner, impls[0].function) if plain else None
