"""Reading of data rows from a file: a text per line, JSON lines, or a table with a header."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def read_rows(file: Path) -> list[Any]:
    """Return the rows of a file, in the format of its extension.

    Args:
        file: `.txt`, a text per line; `.jsonl`, a text or an object per line; `.csv` or `.tsv`, with a header line. The
            values of a column "label" become numbers where all of them are.

    Raises:
        ValueError: it does not exist, has another extension, or cannot be read.
    """
    readers = {".txt": _lines, ".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    if file.suffix not in readers:
        raise ValueError(f"{file} is of no known kind; use {', '.join(readers)}")
    try:
        rows = readers[file.suffix](file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not rows:
        raise ValueError(f"{file} is empty")
    return rows


def _lines(file: Path) -> list[Any]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _json_lines(file: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from error
    return rows


def _table(file: Path) -> list[Any]:
    with file.open(encoding="utf-8", newline="") as opened:
        rows: list[dict[str, Any]] = list(csv.DictReader(opened, delimiter="\t" if file.suffix == ".tsv" else ","))
    labels = [row.get("label") for row in rows]
    if labels and all(isinstance(label, str) and label.lstrip("-").isdecimal() for label in labels):
        return [{**row, "label": int(row["label"])} for row in rows]
    return list(rows)
