"""The tensors that a module saves."""

from __future__ import annotations

from typing import Any


def state_tensors(module: Any) -> dict[str, Any]:
    """Return the tensors of a module's state by name; `get_extra_state` may add what is none."""
    return {name: item for name, item in module.state_dict().items() if hasattr(item, "detach")}
