"""Tasks that the kit runs in a separate process, `python -P child.py`, which reads them from its standard input.

Run by its path, not as a module of the package, so that it imports no more than the backend itself does.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def light(name: str, value: str, group: str) -> list[str]:
    """Return the names of the top-level modules that a backend's entry module and probe import."""
    from importlib_metadata import EntryPoint

    before = set(sys.modules)
    from optimum_core.hardware import detect
    from optimum_core.plugins import PluginManager

    PluginManager([EntryPoint(name, value, group)]).support(name, detect())
    return sorted({module.partition(".")[0] for module in set(sys.modules) - before})


def run(request: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Open a session and run it once; return its outputs, or the error."""
    from optimum_core.errors import OptimumError
    from optimum_core.plugins import manager

    try:
        session = manager().load_session(request)
        outputs = manager().binder(session)(inputs)
        session.close()
    except OptimumError as error:
        told = {"who": error.who, "why": error.why, "remedy": error.remedy}
        return {"outputs": None, "error": type(error).__name__, **told}
    return {"outputs": {key: _numpy(array) for key, array in outputs.items()}, "error": ""}


def run_each(requests: dict[str, Any], inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Call `run` for each request; after a crash, the last name on standard error is the request that caused it."""
    answers = {}
    for name, request in requests.items():
        sys.stderr.write(f"{name}\n")
        sys.stderr.flush()
        answers[name] = run(request, inputs)
    return answers


def leak(request: Any, inputs: dict[str, Any], first: int, last: int) -> tuple[int, int]:
    """Return the resident bytes after `first` and after `last` sessions were opened, run and closed."""
    import gc

    import psutil

    from optimum_core.plugins import manager

    sizes = []
    for count in range(1, last + 1):
        session = manager().load_session(request)
        manager().binder(session)(inputs)
        session.close()
        del session
        if count in (first, last):
            gc.collect()
            sizes.append(int(psutil.Process().memory_info().rss))
    return sizes[0], sizes[-1]


def _numpy(array: Any) -> Any:
    import numpy as np

    return np.array(array if isinstance(array, np.ndarray) else np.from_dlpack(array))


def main() -> None:
    """Run one task per line: its name, and the paths of its arguments and its result, both written only by the kit."""
    tasks: dict[str, Callable[..., object]] = {"light": light, "run": run, "run_each": run_each, "leak": leak}
    for line in sys.stdin:
        task, request, answer = line.rstrip("\n").split("\t")
        try:
            result = True, tasks[task](*pickle.loads(Path(request).read_bytes()))
        except Exception:  # noqa: BLE001 - the kit reports it, of any class
            result = False, traceback.format_exc()
        part = Path(f"{answer}.part")
        part.write_bytes(pickle.dumps(result))
        part.replace(answer)


if __name__ == "__main__":
    main()
