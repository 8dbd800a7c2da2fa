"""From the unquantized winner to the quantized one: the data is gathered first, the walk comes after the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from optimum_core.errors import OptionError
from optimum_core.measure.stopwatch import watched
from optimum_core.plan import Way
from optimum_core.quantization import Wish
from optimum_core.tune.candidates import Candidate
from optimum_core.tune.evidence import LEAST_ROWS, SHARE, Evidence, Gatherer, Material
from optimum_core.tune.job import Job, Tuned
from optimum_core.tune.judging import Judged, WalkJob
from optimum_core.tune.stages import live_artifact
from optimum_core.tune.walk import walk
from optimum_core.types import Promise
from optimum_core.verify.promise import make_promise


class Presenter(Protocol):
    """Shows candidates as the models that `accelerate` returns."""

    def write_companions(self, directory: Path) -> None:
        """Configuration, tokenizer and processor files."""

    def present(self, candidate: Candidate, directory: Path) -> Any:
        """An `AcceleratedModel`, its companions being in `directory`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantizing:
    """Everything that quantization needs beside the search among unquantized models."""

    wish: Wish
    material: Material
    job: Job
    ways: tuple[Way, ...]
    processor: Any
    packer: Presenter

    def evidence(self) -> Evidence:
        """Read the data, and give the builder what it calibrates on.

        Raises:
            OptionError: the data does not fit the model, or is too little.
        """
        job = self.job
        evidence = Gatherer(
            material=self.material,
            module=job.source.module(),
            blueprint=job.blueprint,
            processor=self.processor,
            workshop=job.builder.workshop,
            emit=job.emit,
            calibrates=self._calibrates,
        ).gather()
        self._require_calibration(evidence)
        job.builder.calibration = evidence.calibration
        return evidence

    def prepared(self) -> Callable[[Tuned], Tuned]:
        """Read the data and evaluate the eager model; what comes back walks on from the unquantized winner.

        Raises:
            OptionError: the data does not fit the model, or is too little.
            EvaluationError: the metric gives no number for the eager model.
        """
        job, evidence = self.job, self.evidence()
        companions = job.builder.workshop / "companions"
        companions.mkdir()
        self.packer.write_companions(companions)

        def present(candidate: Candidate) -> Any:
            return self.packer.present(candidate, companions)

        promise = self._promise(evidence, present)

        def go_on(floats: Tuned) -> Tuned:
            return walk(
                WalkJob(
                    wish=self.wish,
                    evidence=evidence,
                    promise=promise,
                    drop=self.material.drop,
                    floats=floats,
                    job=job,
                    ways=self.ways,
                    present=present,
                )
            )

        return go_on

    @property
    def _calibrates(self) -> bool:
        """Whether any recipe reads data."""
        if self.wish.config is not None:
            return self.wish.config.calibrates
        return any(not scheme.startswith("dynamic") for scheme in self.wish.schemes)

    def _require_calibration(self, evidence: Evidence) -> None:
        config = self.wish.config
        if config is not None and config.calibrates and evidence.calibration is None:
            why = (
                f"{config.name} finds ranges on typical inputs, and of so few labelled rows none can be spared for that"
            )
            raise OptionError("calibration", why, f"pass calibration=, or {SHARE * LEAST_ROWS} labelled rows or more")

    def _promise(self, evidence: Evidence, present: Callable[[Candidate], Any]) -> Promise | None:
        """What the eager model has of the metric."""
        if evidence.metric is None or self.material.drop is None:
            return None
        job = self.job
        entry = next(entry for entry in job.entries if entry.is_baseline)
        eager = Candidate(entry=entry, blueprint=job.blueprint, artifact=live_artifact(job.blueprint))
        assert eager.artifact is not None
        with watched(job.emit, "evaluate", "the eager model"):
            eager.session = job.builder.open(entry, eager.artifact, ())
            eager.run = job.plugins.binder(eager.session)
            try:
                return make_promise(evidence.metric, Judged(candidate=eager, present=present), self.material.drop)
            finally:
                eager.close()
