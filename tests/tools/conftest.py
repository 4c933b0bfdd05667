"""A project of a few files, and what the check says of it."""

from collections.abc import Callable
from pathlib import Path

import check_layers
import pytest


@pytest.fixture
def findings(tmp_path: Path) -> Callable[[dict[str, str]], list[str]]:
    """Writes files (path: text) below `tmp_path`, which then is a project, and returns the findings as text."""

    def write_and_check(files: dict[str, str]) -> list[str]:
        for name, text in {"mdr_dist/__init__.py": "", **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return [str(finding) for finding in check_layers.check(tmp_path)]

    return write_and_check
