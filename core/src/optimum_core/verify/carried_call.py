"""The carried call: inputs and reference outputs of one call, stored beside an artifact for checks without the eager
model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.artifact.names import CHECK_FILE
from optimum_core.errors import ArtifactError
from optimum_core.verify import ReferenceCase


def write_check(directory: Path, case: ReferenceCase) -> None:
    """Store a case in a directory."""
    arrays = {f"in.{name}": array for name, array in case.inputs.items()}
    arrays |= {f"out.{name}": array for name, array in case.outputs.items()}
    np.savez(directory / CHECK_FILE, **arrays)  # type: ignore[arg-type]


def read_check(manifest: Manifest, directory: Path) -> ReferenceCase:
    """Return the stored case.

    Raises:
        ArtifactError: the artifact carries none.
    """
    if CHECK_FILE not in manifest.files:
        raise ArtifactError(f"artifact {directory}", f"it carries no {CHECK_FILE} to check with", "save it anew")
    kept = np.load(directory / CHECK_FILE, allow_pickle=False)
    return ReferenceCase(
        name="the call that the artifact carries",
        inputs={spec.name: kept[f"in.{spec.name}"] for spec in manifest.inputs},
        outputs={spec.name: kept[f"out.{spec.name}"] for spec in manifest.outputs},
        varied=frozenset(),
    )
