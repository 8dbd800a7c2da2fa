"""Matching of the formats in the backends' offers: every way from a model to a session.

A way is: a format that one backend exports, perhaps quantized by one, perhaps converted to another format by one,
loaded by the backend that runs it; or the eager model itself, where a backend runs that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from optimum_core.errors import UnavailableError
from optimum_core.plan.offers import is_asked_for, offers_of
from optimum_core.plan.refusals import cannot_quantize, nothing_fits
from optimum_core.plan.target import AUTO, Target
from optimum_core.plan.way import FLOATS, FULL_PRECISION, Conversions, Quantization, Way
from optimum_core.types import Offer, Support

#: Exporter, format, routes, and conversions between that format and the one that is loaded.
Chain = tuple[str, str, tuple[str, ...], Conversions]


def ways(
    supports: Mapping[str, Support],
    target: Target,
    *,
    precision: str | tuple[str, ...] = FULL_PRECISION,
    level: str | None = None,
    quantization: Quantization | None = None,
) -> tuple[Way, ...]:
    """Return every way that the offers allow, in order of backend names; those that quantize last.

    Args:
        supports: results of the probes, by backend.
        precision: only offers that have it, or one of several; "auto": every float precision that is offered.
        level: only this optimization level, instead of those that compete by default.
        quantization: quantized ways to return as well.

    Raises:
        UnavailableError: no backend here can do what was asked; the message has the reasons and remedies.
    """
    offers = [(name, offer) for name, offer in offers_of(supports) if is_asked_for(name, offer, target)]
    found = dict.fromkeys(
        way
        for name, offer in offers
        for one in _precisions_of(offer, precision)
        for way in _ways_of(name, offer, supports, target, one, level)
    )
    if quantization is None:
        if not found:
            if level is not None and ways(supports, target, precision=precision):
                why = "nothing here that fits is optimized at a level: it would have no effect"
                raise UnavailableError(f"level {level!r} of target {str(target)!r}", why, "leave it out")
            raise nothing_fits(supports, target, precision if isinstance(precision, str) else " or ".join(precision))
        return _with_common_opsets(tuple(found))
    quantized = dict.fromkeys(
        way
        for scheme in quantization.schemes
        for name, offer in offers
        for one in _precisions_of(offer, quantization.rest)
        for way in _quantized_ways_of(name, offer, supports, target, one, scheme)
    )
    if not quantized:
        raise cannot_quantize(supports, target, quantization)
    return _with_common_opsets((*found, *quantized))


def _with_common_opsets(found: tuple[Way, ...]) -> tuple[Way, ...]:
    """Return the same ways with a common opset for those that start with the same export, so that they share a file."""
    lowest: dict[tuple[str | None, str | None], int] = {}
    for way in found:
        if way.opset is not None:
            start = way.exporter, way.exported
            lowest[start] = min(way.opset, lowest.get(start, way.opset))
    return tuple(replace(way, opset=lowest.get((way.exporter, way.exported))) for way in found)


def _precisions_of(offer: Offer, precision: str | tuple[str, ...]) -> tuple[str, ...]:
    wanted = FLOATS if precision == AUTO else (precision,) if isinstance(precision, str) else precision
    return tuple(item for item in offer.precisions if item in wanted)


def _ways_of(
    name: str, offer: Offer, supports: Mapping[str, Support], target: Target, precision: str, level: str | None
) -> Iterator[Way]:
    device = target.device or offer.device
    if offer.live:
        levels = (level,) if level else (None, *offer.levels)
        yield Way(backend=name, device=device, precision=precision, levels=levels, parallel=offer.parallel)
        return
    for rank, wanted in enumerate(offer.loads):
        for exporter, made, routes, transforms in _exports_for(wanted, supports):
            optimizes = _optimizes(offer, wanted)
            if level is not None and not optimizes:  # a level of other formats: it would have no effect here
                continue
            levels = (level,) if level else offer.levels
            yield Way(
                backend=name,
                device=device,
                precision=precision,
                format=wanted,
                rank=rank,
                exporter=exporter,
                exported=made,
                routes=routes or (None,),
                transforms=transforms,
                levels=tuple(levels) if levels and optimizes else (None,),
                opset=offer.opset,
                parallel=offer.parallel,
                prepares=offer.prepares,
                proof=offer.proof,
            )


def _quantized_ways_of(
    name: str, offer: Offer, supports: Mapping[str, Support], target: Target, precision: str, scheme: str
) -> Iterator[Way]:
    """Yield the ways to a session of this offer on which a backend quantizes by `scheme`."""
    if scheme not in offer.runs:
        return
    for quantizer, other in offers_of(supports):
        steps = other.quantizes if scheme in other.schemes else ()
        for step in steps:
            for exporter, source in offers_of(supports):
                if step.takes not in source.exports or (step.schemes and scheme not in step.schemes):
                    continue
                for wanted, transforms in _conversions(step.gives, offer, supports):
                    if precision != FULL_PRECISION and _optimizes(
                        offer, wanted
                    ):  # the file itself states the arithmetic
                        transforms = (*transforms, (name, wanted, wanted))
                    yield Way(
                        backend=name,
                        device=target.device or offer.device,
                        precision=precision,
                        format=wanted,
                        rank=offer.loads.index(wanted),
                        exporter=exporter,
                        exported=step.takes,
                        routes=source.routes or (None,),
                        quantizer=quantizer,
                        scheme=scheme,
                        transforms=transforms,
                        opset=offer.opset,
                        parallel=offer.parallel,
                        prepares=offer.prepares,
                        proof=offer.proof,
                        cost=step.seconds,
                    )


def _conversions(made: str, offer: Offer, supports: Mapping[str, Support]) -> Iterator[tuple[str, Conversions]]:
    """Yield the formats that `offer` loads and that `made` is or can be converted to, with the conversion steps."""
    if made in offer.loads:
        yield made, ()
    for builder, other in offers_of(supports):
        for step in other.optimizes:
            if step.takes == made and step.gives != made and step.gives in offer.loads:
                yield step.gives, ((builder, step.takes, step.gives),)


def _optimizes(offer: Offer, wanted: str) -> bool:
    """Whether a backend optimizes files of a format into files of the same format."""
    return any(item.takes == item.gives == wanted for item in offer.optimizes)


def _exports_for(wanted: str, supports: Mapping[str, Support]) -> Iterator[Chain]:
    """Yield the exports that give `wanted`, directly or by one conversion step of a backend."""
    for exporter, offer in offers_of(supports):
        if wanted in offer.exports:
            yield exporter, wanted, offer.routes, ()
    for builder, offer in offers_of(supports):
        for step in offer.optimizes:
            if step.gives != wanted or step.takes == wanted:
                continue
            for exporter, source in offers_of(supports):
                if step.takes in source.exports:
                    yield exporter, step.takes, source.routes, ((builder, step.takes, step.gives),)
