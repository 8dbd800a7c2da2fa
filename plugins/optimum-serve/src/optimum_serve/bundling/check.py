"""Compare the files of a bundle with SHA256SUMS, as `sha256sum --check` does."""

import hashlib
import sys
from pathlib import Path


def main() -> None:
    """End with the names of files that are missing or altered."""
    root, wrong = Path(__file__).resolve().parent, []
    for line in (root / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        file = root / name
        if not file.is_file() or _digest(file) != digest:
            wrong.append(name)
    if wrong:
        sys.exit(f"missing or altered: {', '.join(wrong)}; copy the bundle again")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
