"""Calls of an eager model by named tensors, and its flat form: tensors by position in and out, nothing optional."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from optimum_core.artifact.structure import caches
from optimum_core.error_scales import is_rounding
from optimum_core.errors import SourceError
from optimum_core.models.eager.copies import throwaway
from optimum_core.models.eager.outputs import Outputs, as_array, flatten, structure_of
from optimum_core.models.eager.weight_writes import unshare, writes_weights
from optimum_core.types.arrays import Arrays


@dataclass(slots=True)
class _Manner:
    """The way in which a model is called; one object for a module and its copies: what one learns holds for all.

    Attributes:
        quiet: whether calls pass `use_cache=False`; None: not known yet.
        writes: whether a call writes into the weights, so that no two copies may share them; None: not known yet.
        caches: keys of the caches in the answer to an ordinary call.
    """

    quiet: bool | None = None
    writes: bool | None = None
    caches: tuple[str, ...] = ()


_MANNERS: WeakKeyDictionary[torch.nn.Module, _Manner] = WeakKeyDictionary()


def fixed_arguments(module: torch.nn.Module) -> dict[str, Any]:
    """Return the arguments of every call beside tensors: outputs come in their class, and no cache is kept if that
    changes no output."""
    if not hasattr(module, "config"):
        return {}
    accepted = inspect.signature(_original(module).forward).parameters
    chosen = {"use_cache": False, "return_dict": True}
    if _manner(module).quiet is False:
        del chosen["use_cache"]
    takes_any = any(item.kind is item.VAR_KEYWORD for item in accepted.values())
    return {name: value for name, value in chosen.items() if name in accepted or (takes_any and name == "return_dict")}


def is_plain(module: Any) -> bool:
    """Whether a module is of no library whose configuration tells its inputs; a user's own may hold settings of any
    kind."""
    config = getattr(module, "config", None)
    return not hasattr(config, "model_type") and not (isinstance(config, Mapping) and "_class_name" in config)


def call(module: torch.nn.Module, inputs: Mapping[str, Any], **others: Any) -> Any:
    """Run this very module once on arrays or tensors by name, without gradients.

    Args:
        others: arguments that are no tensors, for a module that was called before.
    """
    tensors = {name: as_tensor(value) for name, value in inputs.items()}
    if not others:
        _learn(module, tensors)
    with torch.no_grad():
        return module(**tensors, **others, **fixed_arguments(module))


def as_tensor(value: Any) -> torch.Tensor:
    """Return a value as a tensor, which shares its memory where torch can."""
    # Torch has no tensors that are read-only, or run backwards.
    other = isinstance(value, np.ndarray) and (not value.flags.writeable or min(value.strides, default=0) < 0)
    return torch.as_tensor(value.copy() if other else value)


def apart(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return inputs as tensors with memory of their own: a model may write into what it is given."""
    return {name: as_tensor(value).clone() for name, value in inputs.items()}


def inputs_after(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Arrays:
    """Return those inputs, as a call leaves them, that the model changes in place."""
    given = apart(inputs)
    call(fresh(module), given)
    return {name: given[name].numpy() for name in _changed(given, inputs)}


def _changed(given: Mapping[str, torch.Tensor], inputs: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of tensors that differ from the inputs of which they were copies."""
    pairs = {name: (_bytes(tensor), _bytes(as_tensor(inputs[name]))) for name, tensor in given.items()}
    return frozenset(name for name, (after, before) in pairs.items() if not torch.equal(after, before))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, by which NaN is equal to itself."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def fresh(module: torch.nn.Module) -> torch.nn.Module:
    """Return a throwaway copy that is called with the module's fixed arguments: see `copies.throwaway`."""
    made: torch.nn.Module = copy.deepcopy(module) if _manner(module).writes else throwaway(module)
    _MANNERS[made] = _manner(module)
    return made


def ask(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Any:
    """Return the module's output when it has seen no other call, by running a throwaway copy."""
    _learn(module, inputs)
    return call(fresh(module), apart(inputs))


def eager_outputs(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Outputs:
    """Return the outputs by name of a model that has seen no other call, as arrays of their own: the reference of
    every comparison."""
    _learn(module, inputs)
    given = apart(inputs)
    found = Outputs.of(call(fresh(module), given))
    found.written = _changed(given, inputs)
    return found


def outputs_with_gradients(module: torch.nn.Module, inputs: Mapping[str, Any]) -> Arrays:
    """Return what `eager_outputs` does, while gradients are recorded, of floats among the inputs too where the module
    takes such; some modules answer otherwise then.

    Raises:
        Exception: of any kind, for a module that cannot be called so.
    """
    tensors = apart(inputs)
    with torch.enable_grad():
        try:
            floats = {
                name: value.clone().requires_grad_() for name, value in tensors.items() if value.is_floating_point()
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns where a number is taken from such
                found = flatten(fresh(module)(**tensors | floats, **fixed_arguments(module)))
        except RuntimeError:  # what it changes in place must not have gradients
            found = flatten(fresh(module)(**apart(inputs), **fixed_arguments(module)))
    return {name: as_array(tensor).copy() for name, tensor in found.items()}


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two outputs for the same inputs are equal but for rounding."""
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and bool((a == b).all())
    return is_rounding(as_array(a.double()), as_array(b.double()))


def caches_left_out(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the keys of caches in the answer to an ordinary call, of a module that was called before."""
    return _manner(module).caches


def _manner(module: torch.nn.Module) -> _Manner:
    return _MANNERS.setdefault(_original(module), _Manner())


def _original(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module that was compiled; itself if it is none of `torch.compile`'s."""
    original: torch.nn.Module = getattr(module, "_orig_mod", module)
    return original


def _learn(module: torch.nn.Module, inputs: Mapping[str, Any]) -> None:
    """Find out at a module's first call what the others go by."""
    manner, original = _manner(module), _original(module)
    if manner.writes is None:
        manner.writes = writes_weights(original, lambda made: made(**apart(inputs), **fixed_arguments(original)))
        if manner.writes:
            unshare(original)
    _learn_quiet(module, inputs)


def _learn_quiet(module: torch.nn.Module, inputs: Mapping[str, Any]) -> None:
    """Find out at a module's first call whether `use_cache=False` changes its outputs: in FSMT, the decoder has its
    causal mask only without a cache. If so, every call is made without that argument, as the user's are."""
    manner = _manner(module)
    if manner.quiet is not None:
        return
    others = fixed_arguments(module)
    if others.pop("use_cache", True):
        manner.quiet = True
        return
    with torch.no_grad():
        quiet = flatten(fresh(module)(**apart(inputs), **others, use_cache=False))
        try:
            answer = fresh(module)(**apart(inputs), **others)
            usual = flatten(answer)
        except Exception:  # noqa: BLE001 - the user's own call would fail so too
            manner.quiet = True
            return
    with suppress(SourceError):
        manner.caches = tuple(caches(structure_of(answer, "")))
    manner.quiet = all(name in usual and alike(value, usual[name]) for name, value in quiet.items())


class FlatModule(torch.nn.Module):
    """`forward(*tensors) -> tuple of tensors`, in the order of two lists of names.

    Tracing needs it: a model's own forward takes its arguments through decorators that change their positions.
    """

    def __init__(self, module: torch.nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.input_names = tuple(inputs)
        self.output_names = tuple(outputs)
        self.arguments = fixed_arguments(module)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.input_names, tensors, strict=True))
        flat = flatten(self.module(**named, **self.arguments))
        return tuple(flat[name] for name in self.output_names)
