"""A new process that imports nothing, or `optimum_core`: `importing nothing|optimum_core`."""

import sys

if sys.argv[1] == "optimum_core":
    import optimum_core  # noqa: F401 - the import is what is measured
print(len(sys.modules), flush=True)  # noqa: T201 - the answer to the process that measures
