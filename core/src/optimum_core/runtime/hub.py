"""Download of artifacts from a hub, and upload to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from optimum_core.artifact import MANIFEST
from optimum_core.errors import ArtifactError, SourceError, first_line
from optimum_core.runtime.card import CARD, is_unedited_card


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
        raise ArtifactError(
            f"artifact {repository!r}",
            f"it is no directory here, and the hub does not give it: {first_line(error)}",
            "check the name and the connection (HF_HUB_OFFLINE forbids it)",
        ) from error
    if not (path / MANIFEST).exists():
        raise ArtifactError(f"artifact {repository!r}", f"it has no {MANIFEST}", "accelerate() takes plain models")
    return path, path.parent.parent


def upload_artifact(
    save: Callable[[Path], None], repository: str, *, private: bool | None, revision: str | None, message: str
) -> str:
    """Save an artifact to a temporary directory and upload it, to a repository that is created where it is missing.

    A README.md of another hand that the repository has is left alone.

    Returns:
        The URL of the commit.

    Raises:
        SourceError: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    with TemporaryDirectory() as folder:
        place = Path(folder) / "artifact"
        save(place)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            if _has_own_card(repository, revision):
                (place / CARD).unlink(missing_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=place, revision=revision, commit_message=message)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            who, why = f"push_to_hub({repository!r})", f"the hub refuses: {error}"
            raise SourceError(who, why, "check the name and `hf auth login`") from error
    return str(done.commit_url)


def _has_own_card(repository: str, revision: str | None) -> bool:
    """Whether a repository has a README.md that was not written by us, or was edited."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    try:
        place = hf_hub_download(repository, CARD, revision=revision)
    except (EntryNotFoundError, RevisionNotFoundError):
        return False
    return not is_unedited_card(Path(place).read_text(encoding="utf-8", errors="replace"))
