"""Which backends there are, in what state, and how each is called.

Discovery reads metadata only; plugins are imported on the first question that needs them, each guarded, so that a
broken one is kept with its error and hurts nothing until it is asked for by name.
"""

from optimum_core.plugins.discovery import ANY, DISABLED_ENV, GROUP, STRICT_ENV, PluginInfo, Status
from optimum_core.plugins.dispatch import Infer, PluginManager, manager

__all__ = ["ANY", "DISABLED_ENV", "GROUP", "STRICT_ENV", "Infer", "PluginInfo", "PluginManager", "Status", "manager"]
