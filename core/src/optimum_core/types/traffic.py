"""Traffic: how often calls and requests of each shape came to a model, without their contents, and its file.

The file is JSON: {"schema_version": 1, "models": [{"name": …, "fingerprint": …, "calls": […], "requests": […]}]}, where
an entry is {"lengths": {"batch": 1, "sequence": 16}, "count": 12}. Lengths are rounded down by `rounded`: so the file
stays small and tells of no single request.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, prod
from typing import Any

from optimum_core.errors import OptionError

_SCHEMA = 1
#: Name under which a shape of a workload states how often it comes, beside the lengths of its axes.
CALLS = "calls"
_STEPS = 8  # lengths in an octave: rounding takes an eighth at most
_SHAPES = 6  # each costs the same time to measure
_AGAIN = "write it anew: a server of optimum-serve does, with traffic_file"
ShapeKey = tuple[tuple[str, int], ...]


def rounded(length: int) -> int:
    """Return a length, rounded down to one of eight in an octave, so that the model takes it; up to 16, all are kept.

    >>> [rounded(length) for length in (1, 15, 17, 100, 512)]
    [1, 15, 16, 96, 512]
    """
    step = max(1 << length.bit_length() - 1, _STEPS) // _STEPS
    return length // step * step


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeCount:
    """The number of calls with these lengths of axes by name; "new" are the tokens that a text got."""

    lengths: Mapping[str, int]
    count: int

    @property
    def work(self) -> int:
        """The number of elements computed, as far as lengths tell it."""
        return self.count * prod(self.lengths.values())

    def distance(self, other: ShapeCount) -> float:
        """Return how far apart two shapes are: the sum of the logarithms of the ratios of their lengths."""
        axes = {*self.lengths, *other.lengths}
        return sum(abs(log(self.lengths.get(axis, 1) / other.lengths.get(axis, 1))) for axis in axes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTraffic:
    """The traffic of one model.

    Attributes:
        name: its name at the server.
        fingerprint: sha256 of the original's weights and configuration, as in the manifest.
        calls: of the model, each a batch of what several requests asked for.
        requests: of clients, before they became batches.
    """

    name: str
    fingerprint: str
    calls: tuple[ShapeCount, ...] = ()
    requests: tuple[ShapeCount, ...] = ()

    def __add__(self, other: ModelTraffic) -> ModelTraffic:
        """Return both together."""
        return ModelTraffic(
            name=other.name,
            fingerprint=self.fingerprint,
            calls=_sum((*self.calls, *other.calls)),
            requests=_sum((*self.requests, *other.requests)),
        )

    def shapes(self, most: int = _SHAPES) -> tuple[dict[str, int], ...]:
        """Return its calls as a workload: the `shapes` of `accelerate` and `load`, each with its number of calls.

        Those shapes are kept that most is computed in; calls of others count for the nearest of them.

        Raises:
            OptionError: there are no calls.
        """
        if not self.calls:
            raise OptionError(f"traffic of model {self.name!r}", "it holds no calls", "collect some first")
        kept = sorted(self.calls, key=lambda one: -one.work)[:most]
        counts = [0] * len(kept)
        for one in self.calls:
            counts[min(range(len(kept)), key=lambda place: one.distance(kept[place]))] += one.count
        return tuple({**one.lengths, CALLS: count} for one, count in zip(kept, counts, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """The traffic of several models."""

    models: tuple[ModelTraffic, ...] = ()

    def __add__(self, other: Traffic) -> Traffic:
        """Return both together; models of one name and fingerprint become one."""
        found = {(one.name, one.fingerprint): one for one in self.models}
        for one in other.models:
            key = one.name, one.fingerprint
            found[key] = found[key] + one if key in found else one
        return Traffic(models=tuple(found.values()))

    def of(self, fingerprint: str, who: str) -> ModelTraffic:
        """Return the traffic of a model, under whatever names it was served.

        Args:
            who: the model, for the error.

        Raises:
            OptionError: there is none of it.
        """
        found = [one for one in self.models if one.fingerprint == fingerprint]
        if not found:
            others = ", ".join(repr(one.name) for one in self.models) or "no model"
            raise OptionError(who, f"the traffic is of other models: {others}", "pass the file of a server of this one")
        whole = found[0]
        for one in found[1:]:
            whole = whole + one
        return whole

    def to_json(self) -> str:
        """Return the text of its file."""
        return json.dumps({"schema_version": _SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, who: str) -> Traffic:
        """Return the traffic in a file.

        Args:
            who: the file, for the error.

        Raises:
            OptionError: it is no such file; the message names the place.
        """
        try:
            tree = json.loads(text)
            version = tree["schema_version"]
            if version != _SCHEMA:
                raise ValueError(f"its schema_version is {version!r}, and this optimum-core reads {_SCHEMA}")
            return cls(models=tuple(_model(one) for one in tree["models"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise OptionError(who, f"it is no record of traffic: {why}", _AGAIN) from error


def counted(counts: Mapping[ShapeKey, int]) -> tuple[ShapeCount, ...]:
    """Return shapes with their numbers, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(ShapeCount(lengths=dict(lengths), count=count) for lengths, count in ordered)


def _sum(shapes: Iterable[ShapeCount]) -> tuple[ShapeCount, ...]:
    counts: Counter[ShapeKey] = Counter()
    for one in shapes:
        counts[tuple(sorted(one.lengths.items()))] += one.count
    return counted(counts)


def _model(tree: Any) -> ModelTraffic:
    for name in ("name", "fingerprint"):
        if not isinstance(tree[name], str):
            raise ValueError(f"the {name} of a model is {tree[name]!r}")
    return ModelTraffic(
        name=tree["name"], fingerprint=tree["fingerprint"], calls=_shapes(tree, "calls"),
        requests=_shapes(tree, "requests"),
    )  # fmt: skip


def _shapes(tree: Any, field: str) -> tuple[ShapeCount, ...]:
    found: Sequence[Any] = tree[field]
    for one in found:
        numbers = (one["count"], *one["lengths"].values())
        if not all(type(number) is int and number > 0 for number in numbers):
            raise ValueError(f"among the {field} of model {tree['name']!r} is {one!r}: numbers have to be above 0")
    return _sum(ShapeCount(lengths=one["lengths"], count=one["count"]) for one in found)
