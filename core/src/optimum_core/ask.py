"""What is asked for beside the model, checked before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.models import tasks
from optimum_core.plan import AUTO, EXACT, Target, parse_target
from optimum_core.quantization import Wish
from optimum_core.types import Support
from optimum_core.types.quantization import OBJECTIVES

__all__ = ["OBJECTIVES", "Ask", "check", "check_level", "check_precision", "stated_options", "stated_shapes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Everything that was asked for: with it, the model and the machine, the answer is decided.

    Attributes:
        wish: how to quantize, where that was asked for; `rest`: the precision of what that leaves in floats.
    """

    target: str = AUTO
    task: str | None = None
    precision: str = EXACT
    shapes: tuple[Any, ...] | None = None
    objective: str = OBJECTIVES[0]
    budget: float | None = None
    verify: bool = True
    level: str | None = None
    wish: Wish | None = None
    rest: str = AUTO
    options: Mapping[str, Any] = field(default_factory=dict)

    def question(self) -> dict[str, Any]:
        """What two asks must share for one answer to serve both, as JSON values. The budget is not part of it."""
        shapes = None
        if self.shapes is not None:
            shapes = [sorted(s.items()) if isinstance(s, Mapping) else list(s) for s in self.shapes]
        return {
            "target": self.target,
            "task": self.task,
            "precision": self.precision,
            "shapes": shapes,
            "objective": self.objective,
            "verify": self.verify,
            "level": self.level,
            "quantize": {**self.wish.question(), "rest": self.rest} if self.wish else None,
            "options": dict(self.options),
        }


def check(ask: Ask) -> Target:
    """Refuse what makes no sense whatever the model and the machine.

    Raises:
        OptionError: the message names the argument, what came, and what may come.
    """
    target = parse_target(ask.target)
    for name in ("options", "level"):
        if getattr(ask, name) and target.backend is None:
            raise OptionError(
                name, "it is for one backend, and target is 'auto'", f"name it: target='backend', {name}=…"
            )
    if ask.task is not None and ask.task not in tasks.known():
        raise OptionError("task", f"{ask.task!r} is unknown", f"it may be one of {', '.join(sorted(tasks.known()))}")
    if ask.objective not in OBJECTIVES:
        raise OptionError("objective", f"{ask.objective!r} is unknown", f"use {', '.join(OBJECTIVES)}")
    if ask.budget is not None and (not isinstance(ask.budget, int | float) or not ask.budget >= 0):
        raise OptionError("budget", f"{ask.budget!r} is no number of seconds", "pass 0 or more")
    return target


def check_level(level: str | None, target: Target, supports: Mapping[str, Support]) -> None:
    """Refuse a level that the backend of the target has not.

    Raises:
        OptionError: the message names those that it has.
    """
    offers = supports[target.backend].offers if level is not None and target.backend is not None else ()
    known = tuple(dict.fromkeys(name for offer in offers for name in (*offer.levels, *offer.named_levels)))
    if offers and level not in known:
        limits = supports[str(target.backend)].limitations
        found = next((item for item in limits if f"level {level!r}" in item.what), None)
        who = f"level {level!r} of backend {target.backend!r}"
        if found is not None:
            raise OptionError(who, f"it is not here: {found.reason}", found.remedy)
        raise OptionError(
            who, "there is none", f"use {', '.join(known)}" if known else "leave it out: it has no levels"
        )


def stated_options(options: Any) -> dict[str, Any]:
    """The options as stated; only the backend can say whether it knows them.

    Raises:
        OptionError: they are no mapping by names.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError("options", f"{options!r} is no mapping of names to values", "pass options={'name': value}")
    return dict(options)


def check_precision(precision: str, supports: Mapping[str, Support]) -> None:
    """Refuse a precision that nobody here offers."""
    offered = {name for support in supports.values() for offer in support.offers for name in offer.precisions}
    if offered and precision not in offered | {AUTO}:
        known = ", ".join(sorted(offered))
        raise OptionError("precision", f"{precision!r} is offered by no backend here", f"use {known}, or {AUTO}")


def stated_shapes(shapes: Any) -> tuple[Any, ...] | None:
    """The workload as stated; only the model can say whether it fits.

    Raises:
        OptionError: something that is neither a pair of lengths nor lengths by the names of axes.
    """
    if shapes is None:
        return None
    stated = tuple(shapes) if isinstance(shapes, Sequence) and not isinstance(shapes, str) else (shapes,)
    for shape in stated:
        lengths = shape.values() if isinstance(shape, Mapping) else shape
        if not isinstance(lengths, Iterable) or isinstance(lengths, str) or not all(map(_is_length, lengths)):
            raise OptionError(
                "shapes",
                f"{shape!r} is neither a pair of lengths nor lengths by the names of axes",
                "pass a list such as [(1, 128)] or [{'batch': 1, 'sequence': 128}]",
            )
    return tuple({k: int(v) for k, v in s.items()} if isinstance(s, Mapping) else tuple(map(int, s)) for s in stated)


def _is_length(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
