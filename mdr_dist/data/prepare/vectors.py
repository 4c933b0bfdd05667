"""Pretrained vectors of words: from a text file, in the layout of word2vec and GloVe, to a table of the data set."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdr_dist import storage
from mdr_dist.data.layout import NewDataset, read_vocabulary
from mdr_dist.data.prepare import engine
from mdr_dist.data.prepare.inputs import below, local
from mdr_dist.data.prepare.recipe import Recipe
from mdr_dist.data.prepare.reject import open_text
from mdr_dist.errors import UserError

Vector = NDArray[np.float32]  # [width]


def find(recipe: Recipe, raw: str) -> dict[str, str]:
    """Vocabulary → URL of the file with its vectors; `UserError` if one is not there."""
    found = {f.space: below(raw, f.vectors) for f in recipe.features if f.vectors}
    for url in found.values():
        if not storage.exists(url):
            raise UserError(f"{url}: no such file of vectors; `vectors` of a feature names it, --raw its folder")
    return found


def add(files: dict[str, str], dataset: NewDataset, work: str) -> dict[str, dict[str, int]]:
    """Write the vectors of the words of each vocabulary; vocabulary → what the report says of them.

    The width of every line is checked, the numbers of those that are wanted. `UserError` naming file and line.
    """
    told: dict[str, dict[str, int]] = {}
    for space, url in files.items():
        words = read_vocabulary(dataset.root, space).slice(1)
        ids = dict(zip(words["key"].to_pylist(), words["id"].to_pylist(), strict=True))
        found = _found(url, ids, work)
        if not found:
            raise UserError(f"{url}: none of the {len(words)} words of vocabulary {space!r} is in this file of vectors")
        order = sorted(found)
        matrix = np.stack([found[place] for place in order])
        width = matrix.shape[1]
        vector = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), width)
        dataset.write_vectors(space, pa.table({"id": pa.array(order, pa.int64()), "vector": vector}))
        told[space] = {"found": len(order), "of": len(words), "width": width}
    return told


def _found(url: str, ids: dict[str, int], work: str) -> dict[int, Vector]:
    """Id → vector of the words that have an id, the first where a word stands twice."""
    os.makedirs(work, exist_ok=True)
    found: dict[int, Vector] = {}
    with engine.blame(f"{url}: cannot be unpacked", kinds=(OSError,)), open_text(local(url, work)) as file:
        for place, word, numbers in _lines(file, url):
            if word in ids and ids[word] not in found:
                found[ids[word]] = _vector(numbers, f"{url}:{place}: {word}")
    return found


def _lines(file: io.TextIOWrapper, url: str) -> Iterator[tuple[int, str, str]]:
    """Line number, word and numbers of every line but a header and blank ones; all have equally many numbers."""
    width = 0
    for place, line in enumerate(file, 1):
        text = line.rstrip(" \r\n")
        if place == 1 and re.fullmatch(r"\d+ \d+", text):
            width = int(text.split(" ")[1])
            continue
        word, gap, numbers = text.partition(" ")
        count = numbers.count(" ") + bool(gap)
        if text and (not count or count != (width := width or count)):
            raise UserError(f"{url}:{place}: {count} numbers after the word {word[:40]!r}, expected {width or 'some'}")
        if text:
            yield place, word, numbers


def _vector(numbers: str, where: str) -> Vector:
    fields = numbers.split(" ")
    try:
        vector = np.array(fields, dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{where}: {engine.one_line(error)}") from error
    with np.errstate(over="ignore"):
        vector = vector.astype(np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{where}: {fields[int(np.argmin(np.isfinite(vector)))]!r} is not a finite number")
    return vector
