"""Tests that every offer of a backend is kept: each format is opened here, and each scheme that it runs is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pytest

from optimum_core.errors import UnavailableError
from optimum_core.hardware import detect
from optimum_core.plan import Quantization, Target, Way, ways
from optimum_core.plugins import manager
from optimum_core.testing.models import KINDS
from optimum_core.testing.subjects import Course, attempt, ways_of_offer
from optimum_core.types import Offer, Support


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A quantization scheme that a backend offers to run on a device.

    Attributes:
        way: the quickest to build that ends so; None: there is none here, for the reason.
    """

    device: str
    scheme: str
    way: Way | None
    reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.device}-{self.scheme}".replace(":", "").lower()


class OfferTests:
    """Tests of what the offers promise, beyond the sessions at their precisions."""

    backend: str

    def test_every_offer_leads_to_a_session(self) -> None:
        """Every format that an offer loads is made by some backend here, so that the other tests open it."""
        supports = manager().supports(detect())
        assert self.backend in supports, "it is no ready backend with a probe"
        idle = [text for offer in supports[self.backend].offers for text in _idle(self.backend, offer, supports)]
        assert not idle, "\n".join(idle)

    def test_every_scheme_that_it_runs_is_right(self, running: Running) -> None:
        """A model quantized by a scheme of `runs` agrees with eager within the tolerance of its number format."""
        if running.way is None:
            pytest.skip(running.reason)
        problems: list[str] = []
        for kind in KINDS:
            found = attempt(manager(), Course(way=running.way, level=running.way.levels[0], kind=kind))
            if found.passed:
                return
            problems += [f"{kind}: {text}" for text in (*found.wrong, *found.refused)]
        pytest.fail("\n".join(problems))


def all_running(backend: str, supports: Mapping[str, Support]) -> tuple[Running, ...]:
    """Return every scheme that a backend runs on the devices here.

    Raises:
        UnavailableError: it runs none.
    """
    offers = [item for item in supports.get(backend, Support()).offers if item.proof != "none"]
    found = tuple(_running(backend, offer, scheme, supports) for offer in offers for scheme in offer.runs)
    if not found:
        raise UnavailableError(f"backend {backend!r}", "it runs no quantized model here", "nothing is to be done")
    return found


def _running(backend: str, offer: Offer, scheme: str, supports: Mapping[str, Support]) -> Running:
    device, rest = offer.device.lower(), offer.precisions[0]
    asked = Quantization(schemes=(scheme,), rest=rest)
    try:
        found = ways(supports, Target(backend=backend, device=device), precision=rest, quantization=asked)
    except UnavailableError as error:
        return Running(device=device, scheme=scheme, way=None, reason=f"{error.why} ({error.remedy})")
    quantized = [way for way in found if way.scheme == scheme]
    quickest = min(quantized, key=lambda way: (way.cost, way.quantizer != backend))
    return Running(device=device, scheme=scheme, way=quickest)


def _idle(backend: str, offer: Offer, supports: Mapping[str, Support]) -> Iterator[str]:
    """Yield a description for each format that an offer loads and no test reaches."""
    if not (offer.loads or offer.live):
        return
    reached = {way.format for way in _reaching(backend, offer, supports)}
    for name in sorted({*offer.loads} - reached):
        yield f"{offer.device} loads {name!r}, which no backend here exports or makes: it is not tested, and never used"
    if offer.live and None not in reached:
        yield f"{offer.device} is live, and no way runs the eager model"


def _reaching(backend: str, offer: Offer, supports: Mapping[str, Support]) -> Iterator[Way]:
    with suppress(UnavailableError):  # described as idle, format by format
        yield from ways_of_offer(backend, offer, supports)
    yield from (item.way for scheme in offer.runs if (item := _running(backend, offer, scheme, supports)).way)
