"""Ways on which a decoder keeps its cache as state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optimum_core.plan.offers import runs_on
from optimum_core.plan.way import Way
from optimum_core.types import Offer, Support


def stateful_ways(found: Sequence[Way], supports: Mapping[str, Support]) -> tuple[Way, ...]:
    """Return those ways on which a decoder keeps its cache as state, with the routes and levels of decoders."""
    return tuple(way for item in found if (way := _stateful(item, supports)) is not None)


def _stateful(way: Way, supports: Mapping[str, Support]) -> Way | None:
    own = _offer_of(way.backend, way.device, supports)
    if own is None or not own.stateful or not _quantizes_state(way, own, supports):
        return None
    if way.is_eager:
        return replace(way, levels=(None,), parallel=False)
    exporter = supports.get(way.exporter or "")
    makers = [
        offer
        for offer in (exporter.offers if exporter is not None else ())
        if way.exported in offer.exports and way.exported in offer.stateful
    ]
    if not makers or way.format not in own.stateful:
        return None
    routes = makers[0].stateful_routes or way.routes
    compete = way.levels == own.levels  # else: the one that was named
    levels = own.stateful_levels or way.levels if compete and not way.is_quantized else way.levels
    caches = own.stateful_caches if way.is_quantized else ()
    return replace(way, routes=routes, levels=levels, caches=caches, parallel=False, prepares=False)


def _quantizes_state(way: Way, own: Offer, supports: Mapping[str, Support]) -> bool:
    """Whether the way quantizes nothing, or by a scheme that both its backends have for decoders."""
    if not way.is_quantized:
        return True
    quantizer = supports.get(way.quantizer or "", Support())
    return way.scheme in own.stateful_schemes and any(way.scheme in o.stateful_schemes for o in quantizer.offers)


def _offer_of(backend: str, device: str, supports: Mapping[str, Support]) -> Offer | None:
    offers = supports[backend].offers if backend in supports else ()
    return next((offer for offer in offers if runs_on(offer, device)), None)
