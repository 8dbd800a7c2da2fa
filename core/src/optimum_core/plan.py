"""Planning of the ways from a model to a session, found by matching the formats in the backends' offers.

No backend is named here. A way is: a format that one backend exports, perhaps quantized by one, perhaps converted to
another format by one, loaded by the backend that runs it; or the eager model itself, where a backend runs that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optimum_core.errors import OptionError, UnavailableError
from optimum_core.plugins import ANY
from optimum_core.types import Limitation, Offer, Support
from optimum_core.types.support import PRECISIONS, device_type

AUTO = ANY
FULL_PRECISION = "fp32"
#: Precisions that `precision="auto"` lets compete; quantized ones must be asked for.
FLOATS = PRECISIONS
#: The precision of weights in 64 bits: no backend offers it, and results are held to it.
DOUBLE = "fp64"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The target asked for: any backend or a named one, on any of its devices or a named one."""

    backend: str | None = None
    device: str | None = None

    def __str__(self) -> str:
        """Return the target as users write it: "auto", "ort", "ort:cuda:0"."""
        backend = self.backend or AUTO
        return f"{backend}:{self.device}" if self.device else backend


def parse_target(target: str) -> Target:
    """Parse "auto", "ort", "openvino:GPU", "ort:cuda:0", "trt:sm_89".

    Raises:
        OptionError: it is empty or not a string, or numbers the processor.

    >>> parse_target("ort:cuda:0")
    Target(backend='ort', device='cuda:0')
    """
    if not isinstance(target, str):
        raise OptionError("target", f"it is of type {type(target).__name__}", 'pass one text: "auto", or a backend')
    if not target.strip(" :"):
        raise OptionError("target", f"{target!r} names nothing", 'pass "auto", a backend, or "backend:device"')
    backend, colon, device = target.strip().partition(":")
    if not backend or (colon and not device) or device.endswith(":"):
        missing = "device" if backend else "backend"
        raise OptionError("target", f"{target!r} names no {missing}", 'pass "auto", a backend, or "backend:device"')
    if device.lower().startswith("cpu:") and device[4:] != "0":
        remedy = f"pass {f'{backend}:cpu'!r}; affinity and CPU limits say which of its cores are used"
        raise OptionError("target", f"{target!r}: a machine has one processor, whose name has no number", remedy)
    return Target() if backend == AUTO else Target(backend=backend, device=device.lower() or None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """The quantized ways asked for.

    Attributes:
        schemes: names as in `QuantizeConfig.name`, in the order in which to look for them.
        rest: the precision of the parts left in floats; "auto": every one that is offered.
    """

    schemes: tuple[str, ...]
    rest: str = AUTO


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to run the model.

    Attributes:
        backend: the backend that loads and runs it.
        device: the device it runs on.
        format: the format that the backend loads; None: the eager model.
        precision: the arithmetic of the session; for a quantized model, that of the parts left in floats.
        exporter: the backend that exports the first format, and `routes`, its export methods, the most promising first.
        quantizer: the backend that quantizes the exported file, and `scheme`, the scheme it uses.
        transforms: (backend, input format, output format) of each conversion between that and the session.
        levels: optimization levels of `backend` for `format` that compete; (None,) where it has none.
        opset: the newest ONNX opset that every backend on the way accepts.
        parallel: concurrent calls may raise the throughput.
        prepares: sessions may be faster when they know the workload's shapes.
        caches: number formats of a decoder's cache that compete with that of the arithmetic.
        proof: how far it can be checked on this machine, as in its offer.
        cost: seconds that building it takes, where that is long.
    """

    backend: str
    device: str
    precision: str
    format: str | None = None
    exporter: str | None = None
    exported: str | None = None
    routes: tuple[str | None, ...] = (None,)
    quantizer: str | None = None
    scheme: str | None = None
    transforms: tuple[tuple[str, str, str], ...] = ()
    levels: tuple[str | None, ...] = (None,)
    opset: int | None = None
    parallel: bool = False
    prepares: bool = False
    caches: tuple[str, ...] = ()
    proof: Literal["device", "graph", "none"] = "device"
    cost: float = 0.0

    @property
    def is_eager(self) -> bool:
        """Whether the eager model runs, and nothing is exported."""
        return self.format is None

    @property
    def is_quantized(self) -> bool:
        """Whether a backend on this way quantizes."""
        return self.scheme is not None


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
    offers = [(name, offer) for name, offer in _offers(supports) if _asked_for(name, offer, target)]
    found = dict.fromkeys(
        way
        for name, offer in offers
        for exact in _precisions_of(offer, precision)
        for way in _ways_of(name, offer, supports, target, exact, level)
    )
    if quantization is None:
        if not found:
            if level is not None and ways(supports, target, precision=precision):
                why = "nothing here that fits is optimized at a level: it would have no effect"
                raise UnavailableError(f"level {level!r} of target {str(target)!r}", why, "leave it out")
            raise _nothing(supports, target, precision if isinstance(precision, str) else " or ".join(precision))
        return _sharing(tuple(found))
    quantized = dict.fromkeys(
        way
        for scheme in quantization.schemes
        for name, offer in offers
        for exact in _precisions_of(offer, quantization.rest)
        for way in _quantized_ways_of(name, offer, supports, target, exact, scheme)
    )
    if not quantized:
        raise _cannot_quantize(supports, target, quantization)
    return _sharing((*found, *quantized))


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
    name = device_type(device)
    return next((offer for offer in offers if offer.device.lower() in (device, name)), None)


def _sharing(found: tuple[Way, ...]) -> tuple[Way, ...]:
    """Return the same ways with a common opset for those that start with the same export, so that they share a file."""
    lowest: dict[tuple[str | None, str | None], int] = {}
    for way in found:
        if way.opset is not None:
            start = way.exporter, way.exported
            lowest[start] = min(way.opset, lowest.get(start, way.opset))
    return tuple(replace(way, opset=lowest.get((way.exporter, way.exported))) for way in found)


def _asked_for(name: str, offer: Offer, target: Target) -> bool:
    if target.backend not in (None, name) or (target.backend is None and offer.proof != "device"):
        return False  # an offer that cannot be checked here is used only if the target names its backend
    if target.device is None:
        return True
    return offer.device.lower() in (target.device, device_type(target.device))


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
    for wanted in offer.loads:
        for exporter, made, routes, transforms in _chains(wanted, supports):
            loops = _loops(offer, wanted)
            if level is not None and not loops:  # a level of other formats: it would have no effect here
                continue
            levels = (level,) if level else offer.levels
            yield Way(
                backend=name,
                device=device,
                precision=precision,
                format=wanted,
                exporter=exporter,
                exported=made,
                routes=routes or (None,),
                transforms=transforms,
                levels=tuple(levels) if levels and loops else (None,),
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
    for quantizer, other in _offers(supports):
        steps = other.quantizes if scheme in other.schemes else ()
        for step in steps:
            for exporter, source in _offers(supports):
                if step.takes not in source.exports or (step.schemes and scheme not in step.schemes):
                    continue
                for wanted, transforms in _landings(step.gives, offer, supports):
                    if precision != FULL_PRECISION and _loops(offer, wanted):  # the file itself states the arithmetic
                        transforms = (*transforms, (name, wanted, wanted))
                    yield Way(
                        backend=name,
                        device=target.device or offer.device,
                        precision=precision,
                        format=wanted,
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


def _landings(made: str, offer: Offer, supports: Mapping[str, Support]) -> Iterator[tuple[str, Steps]]:
    """Yield the formats that `offer` loads and that `made` is or can be converted to, with the conversion steps."""
    if made in offer.loads:
        yield made, ()
    for builder, other in _offers(supports):
        for step in other.optimizes:
            if step.takes == made and step.gives != made and step.gives in offer.loads:
                yield step.gives, ((builder, step.takes, step.gives),)


def _loops(offer: Offer, wanted: str) -> bool:
    """Whether a backend optimizes files of a format into files of the same format."""
    return any(item.takes == item.gives == wanted for item in offer.optimizes)


Steps = tuple[tuple[str, str, str], ...]
Chain = tuple[str, str, tuple[str, ...], Steps]


def _chains(wanted: str, supports: Mapping[str, Support]) -> Iterator[Chain]:
    """Yield the exports that give `wanted`, directly or by one conversion step of a backend."""
    for exporter, offer in _offers(supports):
        if wanted in offer.exports:
            yield exporter, wanted, offer.routes, ()
    for builder, offer in _offers(supports):
        for step in offer.optimizes:
            if step.gives != wanted or step.takes == wanted:
                continue
            for exporter, source in _offers(supports):
                if step.takes in source.exports:
                    yield exporter, step.takes, source.routes, ((builder, step.takes, step.gives),)


def _offers(supports: Mapping[str, Support]) -> Iterator[tuple[str, Offer]]:
    for name in sorted(supports):
        for offer in supports[name].offers:
            yield name, offer


_SEE = "see `optimum-core plugins` for what can run here and why not"


def _nothing(supports: Mapping[str, Support], target: Target, precision: str) -> UnavailableError:
    """Return the error for a request without a way: its device, precision or unquantized model is not available."""
    asked = target.backend or AUTO
    wanted = f"{asked}:{target.device}" if target.device else asked
    mine = [name for name in sorted(supports) if target.backend in (None, name)]
    loading = [offer for name in mine for offer in supports[name].offers if offer.loads]
    devices = sorted({offer.device.lower() for offer in loading})
    limits = [limit for name in mine for limit in supports[name].limitations]
    if target.device is not None and devices and not any(_asked_for(asked, offer, target) for offer in loading):
        reasons = _reasons(_about(limits, target.device)) or f"it knows no device {target.device!r}"
        return UnavailableError(
            f"target {wanted!r}",
            f"on this machine {asked} runs on {', '.join(devices)}; {reasons}",
            f"pass target={f'{asked}:{devices[0]}'!r}, or {_SEE}",
        )
    if target.backend in [name for name in mine if supports[name].is_silent]:
        why = "its probe offers nothing here, and gives no reason"
        return UnavailableError(f"target {wanted!r}", why, "report it to its authors, or name another target")
    if not devices:
        why = _reasons(limits) or "no backend here loads what any backend here exports"
        return UnavailableError(f"target {wanted!r}", why, _SEE)
    precisions = dict.fromkeys(item for offer in loading for item in offer.precisions)
    if precision not in (AUTO, *precisions):
        why = f"on this machine it computes in {', '.join(precisions)}, and not in {precision}"
        return UnavailableError(
            f"target {wanted!r}", why, f"pass precision={' or '.join(map(repr, precisions))}, or {_SEE}"
        )
    schemes = dict.fromkeys(scheme for offer in loading for scheme in offer.runs)
    if schemes:
        why = f"it runs quantized models alone here ({', '.join(schemes)})"
        return UnavailableError(f"target {wanted!r}", why, f"pass quantize={next(iter(schemes))!r}, or another target")
    why = _reasons(limits) or f"nothing here makes what it loads ({', '.join(offer.loads[0] for offer in loading)})"
    return UnavailableError(f"target {wanted!r}", why, _SEE)


def _about(limits: list[Limitation], device: str) -> list[Limitation]:
    """Return the limitations of a device; where there are none, those of sessions on all devices."""
    named = [item for item in limits if item.device == device_type(device)]
    return named or [item for item in limits if item.device is None and item.hook == "load_session"]


def _reasons(limits: list[Limitation]) -> str:
    return "; ".join(f"it cannot {item.what}: {item.reason} ({item.remedy})" for item in limits)


def _cannot_quantize(supports: Mapping[str, Support], target: Target, quantization: Quantization) -> UnavailableError:
    """Return the error naming the schemes that run on the target, or why no backend quantizes by those asked for."""
    asked = [(name, offer) for name, offer in _offers(supports) if _asked_for(name, offer, target)]
    schemes = dict.fromkeys(scheme for _, offer in asked for scheme in offer.runs)
    wanted = ", ".join(quantization.schemes)
    who = f"quantize {wanted}"
    where = f"target {target.backend!r}" if target.backend else "this machine"
    if not any(scheme in schemes for scheme in quantization.schemes):
        here = f"; what runs there is {', '.join(schemes)}" if schemes else ", nor any other scheme"
        return UnavailableError(who, f"nothing on {where} runs it{here}", "ask for one of these, or another target")
    limits = [
        f"{name}: {item.reason} ({item.remedy})"
        for name in sorted(supports)
        for item in supports[name].limitations
        if item.hook in (None, "quantize")
    ]
    why = "nothing installed quantizes so" + (f": {'; '.join(limits)}" if limits else "")
    return UnavailableError(who, why, _SEE)
