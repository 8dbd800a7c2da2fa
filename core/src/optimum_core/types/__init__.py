"""The types passed between core and backends: small frozen dataclasses, independent of any runtime.

`hardware` describes a machine, `support` what a backend can do on it, `requests` what a hook is asked for, `tensors`,
`state`, `pieces` and `continuous` what a session takes and gives, `quantization` and `presets` recipes, `results` and
`rendering` the report, and `traffic` the shapes that a server has met.
"""

from optimum_core.types.continuous import (
    ContinuousBatch,
    ContinuousLimits,
    ContinuousSession,
    Progress,
    Sampling,
)
from optimum_core.types.hardware import Cpu, Gpu, Hardware, Npu
from optimum_core.types.pieces import Cut, LastPiece, PreparedChat, ScoredPiece, ScoredToken, TokenIds
from optimum_core.types.quantization import QuantizeConfig
from optimum_core.types.requests import (
    Artifact,
    ExportRequest,
    Lengths,
    ModelSource,
    OptimizeRequest,
    QuantizeRequest,
    Session,
    SessionRequest,
    StatefulSession,
    Step,
)
from optimum_core.types.results import (
    CandidateResult,
    CaseResult,
    Event,
    Fidelity,
    Measurement,
    PrecisionHint,
    Promise,
    RecipeResult,
    Report,
)
from optimum_core.types.state import JoinedRow, JoiningSession, LayerState, State, StateSpec
from optimum_core.types.support import ForeignFormat, Limitation, Offer, Support, Transform
from optimum_core.types.tensors import Array, AxisRange, TensorSpec
from optimum_core.types.traffic import ModelTraffic, ShapeCount, Traffic

__all__ = [
    "Array",
    "Artifact",
    "AxisRange",
    "CandidateResult",
    "CaseResult",
    "ContinuousBatch",
    "ContinuousLimits",
    "ContinuousSession",
    "Cpu",
    "Cut",
    "Event",
    "ExportRequest",
    "Fidelity",
    "ForeignFormat",
    "Gpu",
    "Hardware",
    "JoinedRow",
    "JoiningSession",
    "LastPiece",
    "LayerState",
    "Lengths",
    "Limitation",
    "Measurement",
    "ModelSource",
    "ModelTraffic",
    "Npu",
    "Offer",
    "OptimizeRequest",
    "PrecisionHint",
    "PreparedChat",
    "Progress",
    "Promise",
    "QuantizeConfig",
    "QuantizeRequest",
    "RecipeResult",
    "Report",
    "Sampling",
    "ScoredPiece",
    "ScoredToken",
    "Session",
    "SessionRequest",
    "ShapeCount",
    "State",
    "StateSpec",
    "StatefulSession",
    "Step",
    "Support",
    "TensorSpec",
    "TokenIds",
    "Traffic",
    "Transform",
    "Trial",
]

#: The former name of `RecipeResult`.
Trial = RecipeResult
