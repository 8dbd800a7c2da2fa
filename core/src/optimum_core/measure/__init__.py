"""Measurement of candidates' speed.

`workload` defines the shapes, `timing` times candidates side by side, `energy` reads the joules of that where there are
any, `cpu_load` measures the load of other programs, and `stopwatch` times every stage.
"""

from optimum_core.measure.timing import Contestant, Effort, energy_score, least_score, measure, measuring, score

__all__ = ["Contestant", "Effort", "energy_score", "least_score", "measure", "measuring", "score"]
