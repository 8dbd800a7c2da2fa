"""A new process that accelerates: `accelerating DIRECTORY [TARGET]`.

Prints, as JSON, the seconds of the call, whether it came from the cache, and the peak memory of this process.
"""

from __future__ import annotations

import json
import sys
import time

from tests.benchmarks.children.peak import peak_bytes

from optimum_core import accelerate


def main() -> None:
    """One call of `accelerate` with the ordinary workload."""
    directory, *target = sys.argv[1:]
    start = time.perf_counter()
    fast = accelerate(directory, target=target[0] if target else "auto")
    seconds = time.perf_counter() - start
    report = fast.report
    facts = {
        "seconds": seconds,
        "cached": report is not None and report.from_cache,
        "chosen": report.chosen.name if report is not None and report.chosen is not None else "",
        "peak": peak_bytes(),
    }
    print(json.dumps(facts), flush=True)  # noqa: T201 - the answer to the process that measures


if __name__ == "__main__":
    main()
