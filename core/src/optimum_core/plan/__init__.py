"""Planning of the ways from a model to a session, by the formats in the backends' offers; no backend is named here.

`target` reads what the user named, and `offers` are those that it takes; `matching` gives each `way` that they allow,
and `stateful` those on which a decoder keeps its cache; `refusals` explains why there is none.
"""

from optimum_core.plan.matching import ways
from optimum_core.plan.stateful import stateful_ways
from optimum_core.plan.target import AUTO, Target, parse_target
from optimum_core.plan.way import DOUBLE, FLOATS, FULL_PRECISION, Quantization, Way

__all__ = [
    "AUTO",
    "DOUBLE",
    "FLOATS",
    "FULL_PRECISION",
    "Quantization",
    "Target",
    "Way",
    "parse_target",
    "stateful_ways",
    "ways",
]
