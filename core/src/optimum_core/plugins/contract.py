"""Checks that a plugin keeps the hook contract, for violations that pluggy alone accepts silently."""

from __future__ import annotations

import difflib
import inspect

import pluggy

from optimum_core.errors import PluginError
from optimum_core.hookspecs import Hooks
from optimum_core.plugins.discovery import Record, show

HOOKS = tuple(name for name in vars(Hooks) if not name.startswith("_"))


def check_object(record: Record, plugin: object) -> None:
    """Raise `PluginError` for an object that cannot be a plugin: a class, None, an unhashable object."""
    if inspect.isclass(plugin):
        why, remedy = f"is the class {plugin.__qualname__}", "name an instance of it, or a module"
    elif plugin is None:
        why, remedy = "is None", "name a module or an object that implements hooks"
    elif type(plugin).__hash__ is None:
        why, remedy = f"{show(plugin)} is not hashable", "name a module, or an object that compares by identity"
    else:
        return
    raise PluginError(record.label, why, remedy)


def check_hooks(record: Record, plugin: object, pm: pluggy.PluginManager) -> None:
    """Raise `PluginError` for what pluggy accepts silently: unknown hooks, arguments never passed, no hooks at all."""
    count = 0
    for attribute in dir(plugin):
        options = pm.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            continue
        count += 1
        hook = options.get("specname") or attribute
        if hook not in HOOKS and not options.get("optionalhook"):
            near = difflib.get_close_matches(hook, HOOKS, n=1)
            newer = "upgrade optimum-core, if a newer one has it"
            remedy = f"did you mean {near[0]!r}? Or {newer}" if near else f"{newer}; the hooks are {', '.join(HOOKS)}"
            raise PluginError(record.label, f"implements an unknown hook {hook!r}", remedy)
        for parameter in inspect.signature(getattr(plugin, attribute)).parameters.values():
            if parameter.default is not parameter.empty:
                why = f"argument {parameter.name!r} of its hook {hook!r} has a default, so it would never be passed"
                raise PluginError(record.label, why, "take the default away")
    if not count:
        why = f"{show(plugin)} implements no hook"
        raise PluginError(record.label, why, "mark its hook functions with optimum_core.hookimpl")


def implementations(pm: pluggy.PluginManager, hook: str, of: object = None) -> list[pluggy.HookImpl]:
    """Return the implementations and wrappers of `hook`; `of`: only those of one plugin."""
    caller: pluggy.HookCaller = getattr(pm.hook, hook)
    return [impl for impl in caller.get_hookimpls() if of is None or impl.plugin is of]


def wraps(implementation: pluggy.HookImpl) -> bool:
    """Whether it wraps calls of other backends instead of implementing the hook."""
    return implementation.wrapper or implementation.hookwrapper
