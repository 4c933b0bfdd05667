"""Words that start from the vectors which a data set brings, dense or in a table, however it is placed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one
from mdr_dist.train.lane import build_trainer
from mdr_dist.train.run import check
from support.jobs import CPU, full_table, small_job, train, weights

IDS = [2, 3, 17]
METHOD: dict[str, Any] = {"name": "catn", "word_dim": 6, "aspects": 2, "filters": 4, "dim": 4}


@pytest.fixture
def vectored(reviews: str, tmp_path: Path) -> tuple[str, np.ndarray]:
    """The reviews with vectors of three words, and these [3, 6]."""
    path = tmp_path / "vectored"
    shutil.copytree(reviews, path)
    space = next(f for f in json.loads((path / "schema.json").read_text())["features"] if f["kind"] == "text")
    vectors = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 6)
    (path / "vectors").mkdir()
    table = pa.table({"id": pa.array(IDS, pa.int64()), "vector": column})
    pq.write_table(table, path / "vectors" / f"{space['vocabulary']}.parquet")
    return str(path), vectors


def started(path: str, run: Path, dense_words: int) -> torch.Tensor:
    """The words' vectors before any step: the dense parameter's, or the table's."""
    method = {**METHOD, "dense_words": dense_words}
    with group_of_one():
        job = small_job("catn", path, method=method, tables={"placement": "row_wise"})
        trainer = build_trainer(job, check(job), run=str(run), device=CPU)
        dense = dict(trainer.method.named_parameters()).get("words")
        return full_table(trainer.tables, "words") if dense is None else dense.detach()


@pytest.mark.parametrize("dense_words", [0, 10_000])
def test_words_with_a_vector_start_from_it_and_others_as_ever(
    vectored: tuple[str, np.ndarray], reviews: str, tmp_path: Path, dense_words: int
) -> None:
    path, vectors = vectored
    found, plain = (started(each, tmp_path / "run", dense_words) for each in (path, reviews))
    np.testing.assert_array_equal(found[IDS], vectors)
    rest = [row for row in range(len(found)) if row not in IDS]
    assert torch.equal(found[rest], plain[rest]) and not torch.equal(found[IDS], plain[IDS])


def test_a_run_goes_on_from_what_it_has_learnt(vectored: tuple[str, np.ndarray], tmp_path: Path) -> None:
    path, vectors = vectored
    job = small_job("catn", path, method=METHOD)
    with group_of_one():
        run = train(job, str(tmp_path))
        again = build_trainer(job, check(job), run=run, device=CPU)
        again.restore(again.checkpoints.latest())
        words = dict(again.method.named_parameters())["words"].detach()
        assert torch.equal(words, weights(run, job)["words"]) and not np.array_equal(words[IDS], vectors)


def test_vectors_of_another_width_are_refused(vectored: tuple[str, np.ndarray]) -> None:
    job = small_job("catn", vectored[0], method={**METHOD, "word_dim": 8})
    with pytest.raises(UserError, match=r"vectors of \w+ have 6 numbers, and the method's words have 8"):
        check(job)
