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
    """Return the names of the runtimes and other compiled packages that a backend's entry module and probe import."""
    from importlib_metadata import EntryPoint

    from optimum_core.hardware import detect
    from optimum_core.plugins import PluginManager
    from optimum_core.plugins.weight import compiled_packages

    hardware, before = detect(), set(sys.modules)
    PluginManager([EntryPoint(name, value, group)]).support(name, hardware)
    return sorted(compiled_packages(set(sys.modules) - before))


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


def leak(request: Any, inputs: dict[str, Any], counts: list[int], little: dict[str, int]) -> dict[int, dict[str, int]]:
    """Open, run and close sessions; return what the process holds after so many of them.

    Args:
        counts: the numbers of sessions, rising.
        little: growth between the first two counts up to which no more sessions are opened.
    """
    import gc

    from optimum_core.plugins import manager

    held: dict[int, dict[str, int]] = {}
    for count in range(1, counts[-1] + 1):
        session = manager().load_session(request)
        manager().binder(session)(inputs)
        session.close()
        del session
        if count in counts:
            gc.collect()
            held[count] = _held()
        if count == counts[1] and all(held[count][name] - held[counts[0]][name] <= little[name] for name in little):
            break
    return held


def _held() -> dict[str, int]:
    """Return the resident bytes, the threads and the open handles (file descriptors, on Unix) of this process."""
    import psutil

    process = psutil.Process()
    handles = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return {"bytes": int(process.memory_info().rss), "threads": process.num_threads(), "handles": handles}


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
