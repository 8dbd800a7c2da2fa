"""Accuracy control: static quantization in which NNCF reverts the most costly operations until the user's promise is
kept.

NNCF reverts every quantized operation by itself, and ranks them by how much nearer that brings the outputs, on
batches of the calibration. In that order they return to float, one more at a time; after each the metric is evaluated.

Activations are not smoothed here: nncf 3.4 restores the weights of a reverted operation from before smoothing, but
keeps the division of its inputs, so that each step makes the model worse, and the last is wrong.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from optimum_core.errors import PromiseError
from optimum_core.types import Artifact, QuantizeConfig, Session
from optimum_openvino.integer import Choices, Feed, advanced, settings
from optimum_openvino.session import OvSession

Shortfall = Callable[[Session], float]

#: Calibration batches used to rank operations: each is run once for every operation, and again after a
#: step that made things worse. Labels play no part in it, so few batches suffice.
RANKED_ON = 2


class Verdicts:
    """The user's metric in the form in which NNCF calls it.

    Args:
        shortfall: a function of a session: the amount by which it misses the promise, 0.0 where it keeps it.
        artifact: the artifact with the inputs and outputs of the models.
    """

    def __init__(self, shortfall: Shortfall, artifact: Artifact) -> None:
        self._shortfall, self._artifact = shortfall, artifact
        self._streams = sys.stdout, sys.stderr
        self._asked = False
        self.last = 0.0

    def __call__(self, compiled: Any, _: Iterable[Any]) -> tuple[float | None, None]:
        """Return 1 less the shortfall: NNCF divides by the value of the original model. The first call asks whether
        items have values of their own: none has, so NNCF compares outputs to rank operations.
        """
        if not self._asked:
            self._asked = True
            return None, None
        session = OvSession(compiled, self._artifact)
        out, err = self._streams  # run the user's metric with its own output shown, while all else is kept silent
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self.last = self._shortfall(session)
        finally:
            session.close()
        return 1.0 - self.last, None


def quantize_controlled(
    nncf: Any,
    model: Any,
    config: QuantizeConfig,
    choices: Choices,
    kept: list[str],
    feed: Feed,
    verdicts: Verdicts,
    who: str,
) -> Any:
    """Return an `openvino.Model` with FakeQuantize around integer operations, as far as the promise allows.

    Raises:
        PromiseError: the promise allows no quantized operation.
    """
    quantized = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(feed),
        validation_dataset=nncf.Dataset(feed.first(RANKED_ON)),  # outputs for all of it are held in memory
        validation_fn=verdicts,
        max_drop=0.0,  # a drop from 1, which is a kept promise
        drop_type=nncf.DropType.ABSOLUTE,
        **settings(nncf, config, choices, kept),
        advanced_quantization_parameters=advanced(nncf, config, choices),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=RANKED_ON, num_ranking_workers=1
        ),
    )
    rounded = any(operation.get_type_name() == "FakeQuantize" for operation in quantized.get_ops())
    if verdicts.last > 0 or not rounded:
        lacking = f", and {verdicts.last:.4g} of the metric is still lacking" if verdicts.last > 0 else ""
        why = f"accuracy control took everything back to float{lacking}"
        raise PromiseError(who, why, "allow a larger max_drop, or leave the model in float")
    return quantized


def taken_back(remarks: Iterable[str]) -> list[str]:
    """Return the names of the operations that NNCF reverted to float, from its final message; empty without one."""
    told = [remark for remark in remarks if "were reverted back" in remark]
    return sorted(line.strip() for line in told[-1].splitlines()[1:]) if told else []
