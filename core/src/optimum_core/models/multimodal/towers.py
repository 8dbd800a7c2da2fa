"""Towers: the modules of a model of pictures or sound with text that turn these into features.

A tower is found by trial: the largest module beside the language model that takes and gives tensors, and reads no
values of them in Python. It is then a model of its own, exported, compared and measured as any other. Where the
outermost reads values (sizes of pictures, masks), one inside of it may not: the rest stays the original's own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from optimum_core.artifact.structure import Constant
from optimum_core.cache import content_key
from optimum_core.errors import first_line
from optimum_core.models.eager.calls import FlatModule, as_tensor, fresh
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.exporting.value_branches import traced_reads, value_branches
from optimum_core.models.pretrained import quiet
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import Source
from optimum_core.types.state import AUDIO, VISION

#: The least share of the weights beside the language model that a tower holds.
_SHARE = 1 / 3
_SOUNDS = ("audio", "speech", "sound")


class NoTowerError(Exception):
    """There is no module that could be a tower; the message is the reason, a clause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call of a module.

    Attributes:
        tensors: by the name of the parameter; those in a tuple are numbered ("position_embeddings.0").
        constants: the other arguments, those that are None left out.
    """

    tensors: Mapping[str, torch.Tensor]
    constants: Mapping[str, Constant]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """A tower, as a model of its own.

    Attributes:
        name: that of the part: "vision" or "audio".
        path: the name of its module in the original.
        constants: its arguments beside tensors.
    """

    name: str
    path: str
    constants: Mapping[str, Constant]
    signature: ModelSignature

    def module(self, original: Any) -> Any:
        """Return the tower of an original as a module that takes tensors by name."""
        return TowerModule(fresh(original.get_submodule(self.path)), self.constants).eval()


class TowerModule(torch.nn.Module):
    """`forward(**tensors)` of a tower with its other arguments fixed."""

    def __init__(self, tower: Any, constants: Mapping[str, Constant]) -> None:
        super().__init__()
        self.tower, self.constants = tower, dict(constants)

    def forward(self, **tensors: torch.Tensor) -> Any:
        return self.tower(**_nested(tensors), **self.constants)


def has_empty_row(inputs: Mapping[str, Any]) -> bool:
    """Whether a mask leaves nothing of a picture or sound, in arrays or tensors.

    Runtimes answer such rows in ways of their own, and originals leave them out before the tower: the eager one gets
    them.
    """
    masks = (item for item in inputs.values() if str(item.dtype).endswith("bool") and item.ndim > 1 and len(item))
    return not all(bool(mask.reshape(len(mask), -1).any(1).all()) for mask in masks)


def _nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of which the numbered ones are joined to tuples."""
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        base, _, index = name.partition(".")
        made[base] = (*made.get(base, ()), tensor) if index else tensor
    return made


def call_of(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """Return the arguments of a call by name; None: some are neither tensors nor plain values."""
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL and value:
            return None
        named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    tensors, constants = dict[str, torch.Tensor](), dict[str, Constant]()
    for name, value in named.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, list | tuple) and value and all(isinstance(item, torch.Tensor) for item in value):
            tensors |= {f"{name}.{index}": item for index, item in enumerate(value)}
        elif isinstance(value, bool | int | float | str):
            constants[name] = value
        elif value is not None:
            return None
    return Call(tensors=tensors, constants=constants)


def tower_of(module: Any, inputs: Mapping[str, Any], name: str) -> Tower:
    """Return the tower of a model.

    Args:
        inputs: those of a call with pictures or sound.
        name: the model's name in errors.

    Raises:
        NoTowerError: there is none that could run alone.
    """
    reasons = list[str]()
    for path, call in _candidates(module, inputs):
        made = TowerModule(fresh(module.get_submodule(path)), call.constants).eval()
        try:
            if reads := _traced_branches(made, call.tensors):
                reasons.append(f"{path} reads values of its inputs in Python ({', '.join(reads[:2])})")
                continue
            signature = describe(made, name=f"{name}, {path}", samples=call.tensors)
        except Exception as error:  # noqa: BLE001 - of a part of a model any error may come, and another may do
            reasons.append(f"{path} cannot be traced or described: {first_line(error)}")
            continue
        kind = AUDIO if any(word in path.lower() for word in _SOUNDS) else VISION
        return Tower(name=kind, path=path, constants=call.constants, signature=signature)
    raise NoTowerError(reasons[0] if reasons else "no module beside the language model takes and gives tensors alone")


def _traced_branches(module: Any, tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Return the places where a trace of a call takes one side of a branch on values."""
    with torch.no_grad(), quiet():
        outputs = list(flatten(module(**tensors)))
        flat, samples = FlatModule(module, list(tensors), outputs).eval(), tuple(tensors.values())
        with traced_reads() as places:
            torch.jit.trace(flat, samples, check_trace=False)  # type: ignore[no-untyped-call]
        return value_branches(places, flat, samples)


def _candidates(module: Any, inputs: Mapping[str, Any]) -> Iterator[tuple[str, Call]]:
    """Yield modules that could be the tower with their calls, the largest first, and of these the outermost."""
    apart = _weights(part for part in (module.get_decoder(), module.get_output_embeddings()) if part is not None)
    whole = sum(_weights([module]).values()) - sum(apart.values())
    found = list[tuple[int, str, Call]]()
    for path, call in _calls(module, inputs).items():
        own = _weights([module.get_submodule(path)])
        size = sum(own.values())
        if call is not None and not own.keys() & apart.keys() and size >= _SHARE * whole:
            found.append((size, path, call))
    for _, path, call in sorted(found, key=lambda item: -item[0]):
        yield path, call


def _weights(modules: Any) -> dict[int, int]:
    return {id(weight): weight.numel() for module in modules for weight in module.parameters()}


def _calls(module: Any, inputs: Mapping[str, Any]) -> dict[str, Call | None]:
    """Return the first call of each module in a call of the whole, where it is one of tensors, the outermost first."""
    copy: Any = fresh(module)
    found = dict[str, Call | None]()

    def note(path: str, part: Any, args: Any, kwargs: Any) -> None:
        found.setdefault(path, call_of(inspect.signature(part.forward), args, kwargs))

    def check(path: str, answer: Any) -> None:
        if not isinstance(answer, torch.Tensor | Mapping | tuple | list) or not flatten(answer):
            found[path] = None

    for path, part in copy.named_modules():
        if path and not any(step.isdigit() for step in path.split(".")):
            part.register_forward_pre_hook(
                lambda part, args, kwargs, path=path: note(path, part, args, kwargs), with_kwargs=True
            )
            part.register_forward_hook(lambda part, args, answer, path=path: check(path, answer))
    with torch.no_grad():
        copy(**{name: as_tensor(value) for name, value in inputs.items()})
    return {path: call if call is not None and call.tensors else None for path, call in found.items()}


class TowerSource:
    """The source of a tower: a view of the original's."""

    format: str | None = None
    is_quantized = False
    precision: str | None = None
    held_to: str | None = None
    notes: tuple[str, ...] = ()
    config: Any = None
    generation_config: Any = None
    processor: Any = None
    class_name = ""

    def __init__(self, whole: Source, tower: Tower) -> None:
        self._whole, self._tower = whole, tower
        self.name = f"{whole.name}, {tower.path}"
        self.in_memory = whole.in_memory
        self.held_in = whole.held_in

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the original and of what is called of it."""
        return content_key(
            {"whole": self._whole.fingerprint, "path": self._tower.path, "constants": dict(self._tower.constants)}
        )

    def module(self) -> Any:
        """Return the eager tower, which shares its weights with the original."""
        return self._tower.module(self._whole.module())

    def size(self) -> int:
        """Return the size of its weights in bytes."""
        return sum(weight.numel() * weight.element_size() for weight in self.module().parameters())

    def samples(self) -> dict[str, Any] | None:
        """Return nothing: the tower's signature has its samples."""
        return None
