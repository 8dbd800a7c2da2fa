"""`python -m optimum_core.testing NAME`: the conformance kit on one backend, as a scorecard."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from optimum_core.errors import OptimumError


def main() -> int:
    """Print the scorecard; return 0 if the backend keeps the contract, 1 if not, 2 if nothing was tested."""
    parser = argparse.ArgumentParser(prog="python -m optimum_core.testing", description="Test a backend's contract.")
    parser.add_argument("name", help="the backend, as users pass it for target")
    parser.add_argument("--option", default="", help="a session option of the backend, whose misspelling is tried")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scorecard as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the scorecard as Markdown")
    parser.add_argument("--only", metavar="EXPRESSION", help="only the tests that match, as pytest's -k selects them")
    given = parser.parse_args()
    from optimum_core.testing.running import run_kit

    try:
        card = run_kit(given.name, option=given.option, arguments=("-k", given.only) if given.only else ())
    except OptimumError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"\n{card.to_markdown()}")
    for place, text in ((given.json, card.to_json()), (given.markdown, card.to_markdown())):
        if place is not None:
            place.write_text(text, encoding="utf-8")
    return 0 if card.passed else 1


if __name__ == "__main__":
    sys.exit(main())
