"""Measurement of candidates' speed.

`workload` defines the shapes, `timing` times candidates side by side, `cpu_load` measures the load of other programs,
and `stopwatch` times every stage.
"""

from optimum_core.measure.timing import Contestant, Effort, least_score, measure, measuring, score

__all__ = ["Contestant", "Effort", "least_score", "measure", "measuring", "score"]
