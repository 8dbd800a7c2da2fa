"""The words in an accelerated model's repr: how far it was verified, and what might be faster or is fixed."""

from __future__ import annotations

from optimum_core.artifact import Manifest
from optimum_core.types import Report


def proof(manifest: Manifest, backend: str) -> str:
    """Return how far a model was verified, in words.

    Args:
        manifest: of the model.
        backend: the one that runs it.
    """
    report, original = manifest.report, manifest.model.has_original
    if not manifest.verified:
        return "NOT verified" if original else "unverified against an original, NOT compared"
    if any(step.branches for step in manifest.steps):
        return "NOT right for all values"
    if report is not None and report.remembers:
        return "NOT as eager after other calls"
    if report is not None and report.minds_gradients:
        return "verified under no_grad only"
    if report is not None and report.inputs_left:
        return "verified, but its inputs stay as they are"
    if report is not None and report.checks_left_out:
        return "verified, but without eager's checks"
    if backend != manifest.backend:
        return f"verified on {manifest.backend} alone"
    if not original:
        return "unverified against an original"
    fidelity = manifest.fidelity
    return "verified at graph level" if fidelity is not None and fidelity.level == "graph" else "verified"


def hints(report: Report | None) -> str:
    """Return what a report says of fixed axes and of other precisions, each behind a semicolon."""
    if report is None:
        return ""
    return "".join(f"; {hint}" for hint in (*report.fixed, report.precision_hint) if hint is not None)
