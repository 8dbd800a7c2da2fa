"""How fast candidates are: `workload` says at which shapes, `timing` races them, `stopwatch` watches every stage."""

from optimum_core.measure.timing import SETTLE_SECONDS, Contestant, Effort, measure, pace, score

__all__ = ["SETTLE_SECONDS", "Contestant", "Effort", "measure", "pace", "score"]
