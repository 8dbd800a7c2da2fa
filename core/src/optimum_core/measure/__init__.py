"""Measurement of candidates' speed.

`workload` defines the shapes, `timing` times candidates side by side, `load` measures other programs' load, `stopwatch`
times every stage.
"""

from optimum_core.measure.timing import SETTLE_SECONDS, Contestant, Effort, measure, measuring, pace, score

__all__ = ["SETTLE_SECONDS", "Contestant", "Effort", "measure", "measuring", "pace", "score"]
