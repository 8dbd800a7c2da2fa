"""The files beside an open model, such as its tokenizer's, which are read when they are first needed.

Another model may have been saved over the directory by then, and its files would be read beside this one.
"""

from __future__ import annotations

from pathlib import Path

import optimum_core.artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.integrity import check_file, further_files
from optimum_core.artifact.meaning import is_beside
from optimum_core.artifact.names import MANIFEST
from optimum_core.errors import ArtifactError

#: A file's time of change, size and number; None: it is not there.
_State = tuple[int, int, int] | None


class FilesBeside:
    """The files beside a model, checked to say what they said when it was opened.

    Args:
        who: the model, for errors.
        directory, manifest: of the model.
    """

    def __init__(self, who: str, directory: Path, manifest: Manifest) -> None:
        self._who, self._directory, self._manifest = who, directory, manifest
        model_files = frozenset(manifest.part_files)
        self._entries = {name: entry for name, entry in manifest.files.items() if is_beside(name, model_files)}
        self._seen: tuple[_State, ...] | None = None

    def checked(self) -> Path:
        """Return the directory. Files that have not changed since the last call are not read again.

        Raises:
            ArtifactError: a file is gone, was added, or says something else; and the manifest that lies there now is
                not of this model, which may be saved over its own directory with other settings.
        """
        states = tuple(_state(self._directory / name) for name in (MANIFEST, *self._entries))
        if states != self._seen:
            try:
                self._compare()
            except ArtifactError as error:
                if not self._is_restated():
                    remedy = f"open it again: optimum_core.load({str(self._directory)!r})"
                    why = f"{error.why}; it was changed since the model was opened"
                    raise ArtifactError(self._who, why, remedy) from error
            self._seen = states
        return self._directory

    def _compare(self) -> None:
        known, place = self._manifest.meanings, self._directory
        for name, entry in self._entries.items():
            check_file(place / name, name, entry, self._who, deep=True, meanings=known.get(name, ()))
        if self._entries:
            further_files(place, self._manifest.files, known, self._who)

    def _is_restated(self) -> bool:
        """Whether the manifest that lies there now has the same model, and the files beside it are its own."""
        try:
            now = artifacts.load(self._directory, verify_files=False)
            FilesBeside(self._who, self._directory, now)._compare()
        except ArtifactError:
            return False
        return all(now.files.get(name) == self._manifest.files.get(name) for name in self._manifest.part_files)


def _state(file: Path) -> _State:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
