"""Figures of truth, drift and retuning for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from optimum_serve.monitoring.drift import BINS

#: By quantity of `drift`, the name and description of its histogram.
_OBSERVED = {
    "length": ("input_tokens", "Tokens of inputs"),
    "unknown": ("unknown_share", "Share of unknown tokens in inputs"),
    "score": ("top_score", "Score of the likeliest class"),
}
_ERRORS = tuple(10.0**power for power in range(-8, 1))


class MonitoringFigures:
    """The figures of all models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.error = Histogram(
            "optimum_truth_error", "Relative error of sampled answers, of the eager model", ["model"], buckets=_ERRORS,
            registry=registry,
        )  # fmt: skip
        self.truth = Counter(
            "optimum_truth", "Sampled answers by verdict: within or beyond the tolerance, failed, dropped",
            ["model", "verdict"], registry=registry,
        )  # fmt: skip
        self.choices = Counter(
            "optimum_truth_choices", "Sampled answers by whether the greatest score is the eager model's",
            ["model", "agrees"], registry=registry,
        )  # fmt: skip
        self.drift = Gauge(
            "optimum_drift", "Population stability index of the latest window against the baseline", ["model", "of"],
            registry=registry,
        )  # fmt: skip
        self.observed = {
            name: Histogram(f"optimum_{metric}", text, ["model"], buckets=BINS[name], registry=registry)
            for name, (metric, text) in _OBSERVED.items()
        }
        self.classes = Counter(
            "optimum_answers", "Answers by the number of the likeliest class", ["model", "number"], registry=registry
        )
        self.retunes = Counter(
            "optimum_retunes", "Times a model was tuned for its traffic", ["model", "outcome"], registry=registry
        )
