"""The checked arguments of `accelerate` apart from the model, validated before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optimum_core.errors import OptionError, UnavailableError
from optimum_core.hardware.energy_counters import POWERCAP_ENV, EnergyMeter
from optimum_core.models import fingerprint, tasks
from optimum_core.plan import AUTO, FLOATS, FULL_PRECISION, Quantization, Target, Way, parse_target, ways
from optimum_core.quantization_goal import QuantizationGoal, read_goal
from optimum_core.types import Support
from optimum_core.types.quantization import OBJECTIVES

# Modules that import torch are imported where used: without torch, `accelerate` must report it and `load` must work.
if TYPE_CHECKING:
    from optimum_core.search.quantized.data import StatedData

#: An objective beside those of `OBJECTIVES`, where the machine counts its energy.
ENERGY = "energy"
#: Default precisions for a checkpoint held in 16 bits, the widest first: none is narrower than its author chose.
_BY_DEFAULT = {"fp16": (FULL_PRECISION, "fp16"), "bf16": (FULL_PRECISION, "fp16", "bf16")}


@dataclass(frozen=True, kw_only=True, slots=True)
class AccelerateRequest:
    """The arguments of one `accelerate` call, which with the model and the machine determine its result.

    Attributes:
        precision: as passed; None: the model's own.
        shapes: the workload, where it was passed.
        budget: seconds, where they were passed.
        goal: the quantization asked for, if any, and `data`, the rows for its calibration and evaluation.
        samples: inputs of one call, where they were passed.
        options: options of the target's backend.
    """

    target: Target = field(default_factory=Target)
    task: str | None = None
    precision: str | None = None
    shapes: tuple[Any, ...] | None = None
    objective: str = OBJECTIVES[0]
    budget: float | None = None
    verify: bool = True
    level: str | None = None
    goal: QuantizationGoal | None = None
    data: StatedData | None = None
    samples: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def precisions(self, held_in: str) -> tuple[str, ...]:
        """Return the precisions that compete.

        Args:
            held_in: the precision of the model's weights as passed.
        """
        if self.precision is None:
            return _BY_DEFAULT.get(held_in, (FULL_PRECISION,))
        return FLOATS if self.precision == AUTO else (self.precision,)

    @property
    def search_budget(self) -> float | None:
        """The seconds that were stated for the search among unquantized models; None: none were. With `quantize` this
        is 0: that search gets a share of them, and an earlier one is not done again for having had less."""
        return self.budget if self.goal is None else 0.0

    @property
    def keeps_double(self) -> bool:
        """Whether a model in 64 bits is to be answered as exactly: neither a precision nor quantization was asked
        for."""
        return self.precision is None and self.goal is None

    @property
    def quantization(self) -> Quantization | None:
        """The quantized ways that are asked for."""
        if self.goal is None:
            return None
        return Quantization(schemes=tuple(map(str, self.goal.schemes)), rest=self.precision or AUTO)

    def question(self) -> dict[str, Any]:
        """Return what two requests must share for one decision to serve both, as JSON values, without the budget."""
        shapes = None
        if self.shapes is not None:
            shapes = [sorted(s.items()) if isinstance(s, Mapping) else list(s) for s in self.shapes]
        return {
            "target": str(self.target),
            "task": self.task,
            "precision": self.precision,
            "shapes": shapes,
            "objective": self.objective,
            "verify": self.verify,
            "level": self.level,
            "quantize": self.goal.question() if self.goal else None,
            "options": dict(self.options),
        }

    def cache_key(self) -> dict[str, Any]:
        """Return what two requests must share for one cached model to serve both, as JSON values."""
        return {
            "ask": self.question(),
            "samples": fingerprint.of_samples(self.samples),
            "data": self.data.question() if self.data else None,
        }


def read_request(
    *, target: str, shapes: Any, quantize: Any, calibration: Any, evaluate: Any, max_drop: Any, objective: str | None,
    options: Mapping[str, Any] | None, **rest: Any,
) -> AccelerateRequest:  # fmt: skip
    """Return the arguments of `accelerate` as a request; reject those that are invalid for any model and machine.

    Args:
        rest: further fields of `AccelerateRequest`.

    Raises:
        OptionError: the message names the argument, the value passed, and the values allowed.
    """
    _check_names(objective=objective, **{name: rest.get(name) for name in ("task", "precision", "level")})
    goal = read_goal(quantize, calibrated=calibration is not None)
    stated = goal.config.objective if goal and goal.config else None
    request = AccelerateRequest(
        target=parse_target(target),
        shapes=stated_shapes(shapes),
        objective=objective or stated or OBJECTIVES[0],
        goal=goal,
        data=_read_data(goal, calibration=calibration, evaluate=evaluate, max_drop=max_drop),
        options=_stated_options(options),
        **rest,
    )
    _check(request)
    return request


def _check_names(**given: Any) -> None:
    """Refuse values that are no names: some of them could not even be looked up."""
    for name, value in given.items():
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise OptionError(name, f"{value!r} is no name", "pass text, or leave it out")


def _check(request: AccelerateRequest) -> None:
    for name in ("options", "level"):
        if getattr(request, name) and request.target.backend is None:
            raise OptionError(
                name, "it is for one backend, and target is 'auto'", f"name it: target='backend', {name}=…"
            )
    if request.task is not None and request.task not in tasks.known():
        raise OptionError(
            "task", f"{request.task!r} is unknown", f"it may be one of {', '.join(sorted(tasks.known()))}"
        )
    if request.objective == ENERGY:
        _check_energy(request)
    elif request.objective not in OBJECTIVES:
        raise OptionError("objective", f"{request.objective!r} is unknown", f"use {', '.join((*OBJECTIVES, ENERGY))}")
    if not isinstance(request.verify, bool):
        raise OptionError("verify", f"{request.verify!r} is neither True nor False", "pass one of these")
    budget = request.budget
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | float) or not budget >= 0):
        raise OptionError("budget", f"{budget!r} is no number of seconds", "pass 0 or more")


def _check_energy(request: AccelerateRequest) -> None:
    """Refuse to choose by energy where nothing measures it.

    Raises:
        OptionError, UnavailableError: a quantized search does not go by it; this machine does not count it.
    """
    who = f"objective {ENERGY!r}"
    if request.goal is not None:
        raise OptionError(who, "a quantized search goes by time or size", f"use {', '.join(OBJECTIVES)}")
    if problem := EnergyMeter().problem:
        remedy = f"let it be read (chmod a+r, or {POWERCAP_ENV} for another place), or use {', '.join(OBJECTIVES)}"
        raise UnavailableError(who, f"this machine's energy is not measured: {problem}", remedy)


def _stated_options(options: Any) -> dict[str, Any]:
    """Return the options as passed; only the backend can check their names and values."""
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError("options", f"{options!r} is no mapping of names to values", "pass options={'name': value}")
    return dict(options)


def _read_data(goal: QuantizationGoal | None, **passed: Any) -> StatedData | None:
    """Return the data for quantization.

    Raises:
        OptionError: data was passed that is not needed, or none for a scheme that needs it.
    """
    if goal is None:
        for name, value in passed.items():
            if value is not None:
                raise OptionError(name, "it is for quantization, and none was asked for", 'pass quantize="int8"')
        return None
    from optimum_core.search.quantized.data import read_data

    data = read_data(passed["calibration"], passed["evaluate"], passed["max_drop"], goal.config)
    if goal.config is not None and goal.config.calibrates and not data.can_calibrate:
        raise OptionError(
            "calibration",
            f"{goal.config.name} finds ranges on typical inputs, and none were passed; made-up ones would be wrong",
            "pass calibration=, a few hundred texts or inputs; or use a scheme that needs none, such as 'dynamic-int8'",
        )
    return data


def check_level(level: str | None, target: Target, supports: Mapping[str, Support]) -> None:
    """Reject a level that the target's backend does not have.

    Raises:
        OptionError: the message names the levels that it has.
    """
    offers = supports[target.backend].offers if level is not None and target.backend is not None else ()
    known = tuple(
        dict.fromkeys(name for offer in offers for name in (*offer.levels, *offer.stateful_levels, *offer.named_levels))
    )
    if offers and level not in known:
        limits = supports[str(target.backend)].limitations
        found = next((item for item in limits if item.level == level), None)
        who = f"level {level!r} of backend {target.backend!r}"
        if found is not None:
            raise OptionError(who, f"it is not here: {found.reason}", found.remedy)
        raise OptionError(
            who, "there is none", f"use {', '.join(known)}" if known else "leave it out: it has no levels"
        )


def check_precision(precision: str | None, supports: Mapping[str, Support]) -> None:
    """Raise `OptionError` for a precision that no backend here offers."""
    offered = {name for support in supports.values() for offer in support.offers for name in offer.precisions}
    if precision is not None and offered and precision not in offered | {AUTO}:
        known = ", ".join(sorted(offered))
        raise OptionError("precision", f"{precision!r} is offered by no backend here", f"use {known}, or {AUTO}")


def stated_shapes(shapes: Any) -> tuple[Any, ...] | None:
    """Return the workload as passed; whether the model can take it is checked later.

    Raises:
        OptionError: an item is neither a pair of lengths nor a mapping of axis names to lengths.
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


def asked_ways(
    supports: Mapping[str, Support], request: AccelerateRequest, held_in: str, given: str | None = None
) -> tuple[Way, ...]:
    """Return the ways that were asked for, and the eager model's to compare with.

    Args:
        held_in: the precision of the model's weights as passed.
        given: the format of the model as passed, if it is in one already.

    Raises:
        UnavailableError: no backend here can do what was asked.
    """
    asked = ways(
        supports, request.target, precision=request.precisions(held_in), level=request.level,
        quantization=request.quantization,
    )  # fmt: skip
    known = {(way.backend, way.device, way.precision) for way in asked if way.is_eager}
    baseline = tuple(
        replace(way, levels=(None,))
        for way in ways(supports, Target())
        if way.is_eager and (way.backend, way.device, way.precision) not in known
    )
    found = (*baseline, *asked)
    return found if given is None else _starting_from(given, found)


def _starting_from(given: str, found: tuple[Way, ...]) -> tuple[Way, ...]:
    """Return the ways that start from the format that the model is in already, each once.

    Raises:
        UnavailableError: there is none.
    """
    kept = tuple(
        replace(way, levels=(None,)) if way.is_eager else replace(way, routes=(None,))
        for way in found
        if way.exported == given or (way.is_eager and way.precision == FULL_PRECISION)
    )
    if all(way.is_eager for way in kept):
        raise UnavailableError(f"a model in {given}", "nothing that was asked for runs it", "ask for target='auto'")
    return kept
