"""How fast candidates are.

`workload` says at which shapes, `timing` races them, `load` tells what disturbs them, `stopwatch` watches every stage.
"""

from optimum_core.measure.timing import SETTLE_SECONDS, Contestant, Effort, measure, measuring, pace, score

__all__ = ["SETTLE_SECONDS", "Contestant", "Effort", "measure", "measuring", "pace", "score"]
