"""Arrays kept beside a data set, and what becomes of them when it is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mdr_dist.data.mapped import mapped, remove_orphans
from mdr_dist.data.reader import Reader
from support.retrieval import Row, write_log


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def test_built_once_and_gone_with_the_data_set(tmp_path: Path, kept: Path) -> None:
    readers = [Reader(write_log(str(tmp_path / name), [Row("train", "books", 1, 1)])) for name in ("one", "two")]
    built: list[str] = []

    def numbers(reader: Reader, key: int) -> list[int]:
        def build(folder: str) -> dict[str, np.ndarray]:
            built.append(folder)
            return {"numbers": np.arange(key)}

        return mapped(reader, "numbers", key=(key,), build=build)["numbers"].tolist()

    assert numbers(readers[0], 3) == numbers(readers[0], 3) == [0, 1, 2]
    assert numbers(readers[1], 3) == [0, 1, 2]
    assert len(built) == 2
    shutil.rmtree(tmp_path / "one")
    remove_orphans.cache_clear()  # as in another process
    assert numbers(readers[1], 3) == [0, 1, 2] and Path(built[0]).exists()  # nothing new was made
    assert numbers(readers[1], 4) == [0, 1, 2, 3]
    assert not Path(built[0]).exists() and Path(built[1]).exists() and len(built) == 3
