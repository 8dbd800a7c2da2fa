"""Download of artifacts from a hub."""

from __future__ import annotations

from pathlib import Path

from optimum_core.artifact import MANIFEST
from optimum_core.errors import ArtifactError


def download_artifact(repository: str, revision: str | None) -> tuple[Path, Path]:
    """Download an artifact into the hub's cache.

    Returns:
        Its directory, and the folder of the repository, within which its files may be links.

    Raises:
        ArtifactError: there is no such artifact, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repository, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ArtifactError(
            f"artifact {repository!r}",
            f"it is no directory here, and the hub does not give it: {first_line}",
            "check the name and the connection (HF_HUB_OFFLINE forbids it)",
        ) from error
    if not (path / MANIFEST).exists():
        raise ArtifactError(f"artifact {repository!r}", f"it has no {MANIFEST}", "accelerate() takes plain models")
    return path, path.parent.parent
