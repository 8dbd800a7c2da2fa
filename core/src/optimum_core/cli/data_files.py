"""Rows of data from a file: a text a line, JSON lines, or a table with a header."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def read_rows(file: Path) -> list[Any]:
    """Read a file by its ending.

    Args:
        file: `.txt`, a text a line; `.jsonl`, a text or an object a line; `.csv` or `.tsv`, columns named in the first
            line. A column "label" is a number where all of them are.

    Raises:
        ValueError: it is not there, of another kind, or cannot be read.
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
