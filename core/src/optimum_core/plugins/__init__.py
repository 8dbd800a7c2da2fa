"""Discovery, loading and calling of backend plugins.

Discovery reads metadata only; plugins are imported when first needed, each guarded, so that a broken one is kept with
its error and affects nothing until it is asked for by name.

`discovery` finds them, `compatibility` asks whether they were made for this contract, `contract` whether their hooks
keep it, `support_check` whether what a probe returns does. `dispatch` loads them and calls hooks, `runners` sessions.
`naming` suggests the backend that was meant, `blame` names the one that raised, `weight` tells of those that import
too much.
"""

from optimum_core.plugins.discovery import ANY, DISABLED_ENV, GROUP, STRICT_ENV, PluginInfo, Status, unknown_disabled
from optimum_core.plugins.dispatch import PluginManager, manager
from optimum_core.plugins.runners import Direct, Infer
from optimum_core.plugins.weight import heavy_notes

__all__ = [
    "ANY",
    "DISABLED_ENV",
    "GROUP",
    "STRICT_ENV",
    "Direct",
    "Infer",
    "PluginInfo",
    "PluginManager",
    "Status",
    "heavy_notes",
    "manager",
    "unknown_disabled",
]
