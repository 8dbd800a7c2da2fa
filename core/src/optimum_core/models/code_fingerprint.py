"""Descriptions of Python values and code that affect a module's outputs, equal in every process, for its fingerprint.

Libraries are described by name: their versions belong to the key of the cache.
"""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import json
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_LIBRARIES = frozenset({
    *sys.stdlib_module_names, "huggingface_hub", "numpy", "optimum_core", "peft", "sentence_transformers", "timm",
    "tokenizers", "torch", "torchvision", "transformers",
}) - {"__main__"}  # fmt: skip
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Packages of Python whose objects hold what they were made with, and nothing that differs between processes.
_HOLDING = frozenset({
    "argparse", "array", "builtins", "collections", "decimal", "fractions", "functools", "operator",
    "pathlib", "re", "types",
})  # fmt: skip
#: Depth of values within values, and of functions that functions use, beyond which names alone count.
_DEEPEST = 6
#: Number of functions, and of objects that they find, and number of objects that modules hold, described in full.
_MOST, _MOST_HELD = 2000, 20_000
#: Attributes of a module that are described elsewhere, or affect no output.
_ELSEWHERE = frozenset({
    "training", "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
})  # fmt: skip


def is_of_a_library(item: Any) -> bool:
    """Whether a class or function is one of torch, transformers, numpy or Python itself."""
    return _package(getattr(item, "__module__", None)) in _LIBRARIES


def _package(name: Any) -> str:
    return (name if isinstance(name, str) else "builtins").partition(".")[0]


class CodeReader:
    """Reader of what a module has beside its tensors. Every module, function and object is described once.

    Args:
        of_tensor: returns the description of a tensor with its contents; raises an error where they cannot be read.
    """

    def __init__(self, of_tensor: Callable[[Any], str]) -> None:
        self._of_tensor = of_tensor
        self._seen: dict[int, Any] = {}  # kept alive, so that no other object gets their ids
        self._held: dict[int, Any] = {}
        self._modules: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # by id: one may stand at several places
        self._functions = 0  # around what is described now
        self._classes: set[type] = set()
        self._bases: set[type] = set()

    def modules(self, root: Any) -> Iterator[str]:
        """Yield descriptions of a module and those within it: names, classes and attributes."""
        named = dict(root.named_modules())
        for part in named.values():
            self._keep(self._modules, part)
        places = {id(part): name for name, part in named.items()}
        for name, part in named.items():
            cls = type(part)
            yield f"{name}:{cls.__module__}.{cls.__qualname__}:{_script(part)}"
            # One module may stand at several places.
            yield repr([(key, places.get(id(child))) for key, child in getattr(part, "_modules", {}).items()])
            yield from self.attributes(part)
            if cls not in self._classes:
                self._classes.add(cls)
                yield from self.classes(cls)

    def attributes(self, module: Any) -> Iterator[str]:
        """Yield descriptions of a module's own attributes, functions and hooks among them, and of buffers that are not
        saved."""
        unsaved = getattr(module, "_non_persistent_buffers_set", ())
        yield from (f"{name}={self.value(module._buffers.get(name))}" for name in sorted(unsaved))
        whole = not is_of_a_library(type(module))
        for name, item in sorted(vars(module).items()):
            if name in _ELSEWHERE or (isinstance(item, Mapping) and not item):
                continue
            if name.endswith("_hooks") and isinstance(item, Mapping):  # their keys are counted through the process
                yield f"{name}={[self.value(hook) for hook in item.values()]}"
            elif whole or name == "config" or isinstance(item, (*_PLAIN, tuple)) or _is_function(item):
                yield f"{name}={self.value(item)}"

    def classes(self, cls: type) -> Iterator[str]:
        """Yield descriptions of a class and its bases: their functions and attributes; of those of libraries, functions
        that others have put there, and into the module around them."""
        for base in cls.__mro__:
            if not is_of_a_library(base):
                yield self.value(base)
            elif base not in self._bases:
                self._bases.add(base)
                yield from self._put_into(base, vars(base))
                around = vars(sys.modules.get(base.__module__, base))
                if id(around) not in self._modules:
                    self._keep(self._modules, around)
                    yield from self._put_into(base.__module__, around)

    def _put_into(self, place: Any, members: Mapping[str, Any]) -> Iterator[str]:
        """Yield descriptions of functions of no library among the members of a class or module of one."""
        for name, item in sorted(members.items()):
            function = _function_in(item)
            if function is not None and _package(function.__globals__.get("__name__")) not in _LIBRARIES:
                yield f"{place}.{name}={self.value(function, _DEEPEST - 2)}"

    def value(self, item: Any, depth: int = 0) -> str:
        """Return the description of any value."""
        if isinstance(item, _PLAIN):
            return repr(item)
        if (number := self._numbers.get(id(item))) is not None:
            return f"{_title(item)}#{number}"
        is_full = len(self._seen) > _MOST if self._functions else len(self._held) > _MOST_HELD
        if depth > _DEEPEST or is_full:
            return _title(item)
        if (function := _behind(item)) is not None:
            return self.value(function, depth)
        if isinstance(item, types.MethodType | classmethod | staticmethod):
            holder = getattr(item, "__self__", None)
            return self.value(item.__func__, depth) + (self.value(holder, depth + 1) if _is_module(holder) else "")
        if isinstance(item, functools.partial):
            return f"partial{[self.value(part, depth + 1) for part in (item.func, item.args, item.keywords)]}"
        if isinstance(item, types.FunctionType | type | types.BuiltinFunctionType | types.ModuleType):
            return self._named(item, depth)
        if isinstance(item, np.ndarray | np.generic):
            return f"{item.dtype}{item.shape}{hashlib.sha256(np.ascontiguousarray(item).tobytes()).hexdigest()}"
        if hasattr(item, "detach") and hasattr(item, "dtype"):
            return self._tensor(item)
        return self._held_module(item) if _is_module(item) else self._container(item, depth)

    def _keep(self, kept: dict[int, Any], item: Any) -> None:
        kept[id(item)] = item
        self._numbers.setdefault(id(item), len(self._numbers))

    def _tensor(self, item: Any) -> str:
        """Return the description of a tensor: without its contents or its shape where these cannot be read."""
        for describe in (self._of_tensor, lambda tensor: f"{tensor.layout}{tensor.dtype}{tuple(tensor.shape)}"):
            try:
                return describe(item)
            except Exception as error:  # noqa: BLE001 - tensors of other kinds raise errors of any type
                logging.getLogger(__name__).debug("a tensor of %s: %s", type(item).__qualname__, error)
        return f"{type(item).__qualname__}{item.dtype}"

    def _held_module(self, item: Any) -> str:
        """Return the description of a module that no other one has as its part, with its tensors."""
        parts = list(self.modules(item))
        parts += [f"{name}={self.value(tensor, 1)}" for name, tensor in item.state_dict().items()]
        return f"{type(item).__qualname__}{parts}"

    def _container(self, item: Any, depth: int) -> str:
        kind = type(item).__qualname__
        if isinstance(item, Mapping):
            return f"{kind}{sorted((self.value(k, depth + 1), self.value(v, depth + 1)) for k, v in item.items())}"
        if isinstance(item, set | frozenset):
            return f"{kind}{sorted(self.value(part, depth + 1) for part in sorted(item, key=_title))}"
        if isinstance(item, list | tuple):
            return f"{kind}{[self.value(part, depth + 1) for part in item]}"
        if type(item).__module__ == "torch":  # a dtype, a device
            return repr(item)
        if is_of_a_library(type(item)):
            self._keep(self._seen if self._functions else self._held, item)
            return f"{kind}{self._made_with(item, depth)}"
        kind += "".join(self.value(base, depth + 1) for base in type(item).__mro__ if not is_of_a_library(base))
        # An object that a function finds may change with every call, unless it is there to hold settings.
        if self._functions and depth > 1 and not dataclasses.is_dataclass(item):
            return kind
        self._keep(self._seen if self._functions else self._held, item)
        return f"{kind}{self.value(getattr(item, '__dict__', None), depth + 1)}"

    def _made_with(self, item: Any, depth: int) -> str:
        """Return the description of what an object of a library's class was made with: a configuration, a range, a
        namespace of settings; "" for those that hold what differs between processes."""
        try:
            if hasattr(item, "to_dict"):
                return as_json(item.to_dict())
            if _package(type(item).__module__) not in _HOLDING:
                return _script(item) or str(getattr(item, "__name__", ""))
            reduce = copyreg.dispatch_table.get(type(item))
            made: Any = reduce(item) if reduce is not None else item.__reduce_ex__(2)
        except Exception as error:  # noqa: BLE001 - an iterator, a lock: they raise errors of any type
            logging.getLogger(__name__).debug("a %s: %s", type(item).__qualname__, error)
            return ""
        parts = [list(part) if isinstance(part, Iterator) else part for part in made if not isinstance(made, str)]
        return str([self.value(part, depth + 1) for part in parts])

    def _named(self, item: Any, depth: int) -> str:
        name = f"{getattr(item, '__module__', '')}.{getattr(item, '__qualname__', item.__name__)}"
        if is_of_a_library(item) or isinstance(item, types.BuiltinFunctionType | types.ModuleType):
            return name
        self._keep(self._seen, item)
        if isinstance(item, types.FunctionType):
            self._functions += 1
            try:
                return f"{name}{self._function(item, depth)}"
            finally:
                self._functions -= 1
        own = {key: part for key, part in vars(item).items() if not key.startswith("__") or callable(part)}
        parts = [(key, self.value(part, depth + 1)) for key, part in sorted(own.items())]
        return f"{name}{parts}"

    def _function(self, function: types.FunctionType, depth: int) -> str:
        """Return the description of a function: its code, what it was made with, and what it finds by name."""
        cells = [self._cell(cell, depth) for cell in function.__closure__ or ()]
        outside = [(name, self.value(item, depth + 1)) for name, item in _found_by(function)]
        given = self.value((function.__defaults__, function.__kwdefaults__), depth + 1)
        return f"{_code(function.__code__)}{given}{cells}{outside}"

    def _cell(self, cell: Any, depth: int) -> str:
        try:
            return self.value(cell.cell_contents, depth + 1)
        except ValueError:  # it is filled later
            return ""


def as_json(settings: Any) -> str:
    """Return settings as text, in an order of their own; their keys may be of several types."""
    try:
        return json.dumps(settings, sort_keys=True, default=str)
    except TypeError:
        return json.dumps(_with_text_keys(settings), sort_keys=True, default=str)


def _with_text_keys(item: Any) -> Any:
    if isinstance(item, Mapping):
        return {repr(key): _with_text_keys(part) for key, part in item.items()}
    return [_with_text_keys(part) for part in item] if isinstance(item, list | tuple) else item


def _title(item: Any) -> str:
    """Return the name of a class or function, a plain value, and the class's name of others."""
    return repr(item) if isinstance(item, _PLAIN) else str(getattr(item, "__qualname__", type(item).__qualname__))


def _is_module(item: Any) -> bool:
    return not isinstance(item, type) and hasattr(item, "named_modules") and hasattr(item, "state_dict")


def _is_function(item: Any) -> bool:
    return isinstance(item, types.FunctionType | types.MethodType | functools.partial)


def _behind(item: Any) -> Any:
    """Return the function that a property, or a function that remembers its answers, was made of; None: it is none."""
    if isinstance(item, property):
        return item.fget
    if isinstance(item, functools.cached_property):
        return item.func
    return getattr(item, "__wrapped__", None) if isinstance(item, functools._lru_cache_wrapper) else None


def _script(item: Any) -> str:
    """Return the code of a module or function that torch has compiled into its own language; "" for others."""
    try:
        code = getattr(item, "code", None) if _package(type(item).__module__) == "torch" else None
    except RuntimeError:  # it has no forward
        return ""
    return code if isinstance(code, str) else ""


def _found_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function finds by name: among what surrounds it, and in modules of no library that it names."""
    names, known = sorted(_names(function.__code__)), function.__globals__
    package = known.get("__package__") or ""
    modules = {}
    for name in names:
        if name in known:
            yield name, known[name]
        imported = sys.modules.get(name) or sys.modules.get(f"{package}.{name}")  # by a statement within it
        found = known.get(name, imported)
        if isinstance(found, types.ModuleType):
            modules[name] = found
    for place, module in modules.items():
        yield from _found_in(place, module, names)


def _found_in(place: str, module: types.ModuleType, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield those of the names that a module of no library has, and so on in such modules within it."""
    if _package(module.__name__) in _LIBRARIES:
        return
    for name in names:
        item = vars(module).get(name)
        if not isinstance(item, types.ModuleType):
            if name in vars(module):
                yield f"{place}.{name}", item
        elif item.__name__.startswith(f"{module.__name__}."):
            yield from _found_in(f"{place}.{name}", item, names)


def _function_in(item: Any) -> types.FunctionType | None:
    """Return the Python function of a member of a class or module; None if it has none."""
    item = item.fget if isinstance(item, property) else getattr(item, "__func__", item)
    return item if isinstance(item, types.FunctionType) else None


def _names(code: types.CodeType) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return {*code.co_names, *(name for part in inner for name in _names(part))}


def _code(code: types.CodeType) -> str:
    """Return the description of code: without its place in a file, which moves as lines before it do."""
    constants = [_constant(part) for part in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(part: Any) -> Any:
    if isinstance(part, types.CodeType):
        return _code(part)
    return sorted(map(repr, part)) if isinstance(part, frozenset) else part
