"""Measurement of candidates' speed.

`workload` defines the shapes, `timing` times candidates side by side, `load` measures other programs' load, `stopwatch`
times every stage.
"""

from optimum_core.measure.timing import Contestant, Effort, measure, measuring, pace, score

__all__ = ["Contestant", "Effort", "measure", "measuring", "pace", "score"]
