"""What benchmarks share that write one file: their flags, the commit they measure, and where the result goes."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from pathlib import Path


def arguments(description: str | None, numbers: Mapping[str, int]) -> argparse.Namespace:
    """The command line: a flag for each number, with its default, and `--out`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def commit() -> str:
    """The commit that is checked out, in short; outside a checkout `unknown`."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


def show(text: str, out: Path | None) -> None:
    """Print the result and, if a file is named, keep it there."""
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
