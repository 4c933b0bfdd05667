"""Reviews as lists of word ids, against scikit-learn's vectoriser, and pretrained vectors, against numpy."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from mdr_dist.data import layout
from mdr_dist.data.layout import read_schema, read_vectors
from mdr_dist.data.prepare import text

SPLITS = ("train", "val", "test")
ODD = ["Don't", "x", "naïve", "NAÏVE", "snake_case", "_", "2nd", "½", "中文", "Ünder-Über", "e\u0301te", "a1\nb2"]
ODD += ['"quoted"', "٣٤"]


def reviews(rows: int, seed: int = 0) -> list[str]:
    """Zipf-like words with capitals, punctuation and odd ones; some reviews are missing, some hold no word."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{n}" if n % 3 else f"W{n}," for n in range(400)] + ODD)
    texts = []
    for _ in range(rows):
        place = (len(words) * rng.random(rng.integers(1, 30)) ** 2.5).astype(int)
        odd = rng.random(len(place)) < 0.1
        place[odd] = 400 + rng.integers(len(ODD), size=odd.sum())
        texts.append(" ".join(words[place]))
    texts[3:200:40], texts[5:200:40] = [""] * 5, ["!? a ."] * 5
    return texts


@pytest.fixture
def frame(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(review=reviews(len(frame)))


def recipe(bench, **feature) -> None:
    bench.recipe["log"][0]["columns"]["review"] = "text"
    bench.recipe["features"].append({"name": "review", "kind": "text", **feature})


def run(bench, frame: pd.DataFrame, **feature) -> tuple[dict, pd.DataFrame]:
    """The report and the rows beside the raw ones, matched by their unique time."""
    bench.log(frame)
    recipe(bench, **feature)
    report = bench.run()
    rows = bench.rows().merge(frame, on=["time", "domain"], suffixes=("", "_raw"), validate="1:1")
    return report, rows


ANALYZER = TfidfVectorizer().build_analyzer()


def check(bench, rows: pd.DataFrame, words: set[str], width: int) -> None:
    """Ids go by descending count, then word; each row has the known words of its review in order."""
    train = rows[rows["split"] == "train"]["review_raw"]
    counts = pd.Series([word for review in train for word in ANALYZER(review)]).value_counts()
    keys = sorted(words, key=lambda word: (-counts[word], word))
    vocabulary = bench.vocabulary("review")
    assert vocabulary["key"].tolist() == ["", *keys]
    assert vocabulary["id"].tolist() == list(range(1 + len(keys)))
    assert vocabulary["count"].tolist() == [0, *counts[keys]]
    ids = {key: number for number, key in enumerate(keys, 1)}
    want = [[ids[word] for word in ANALYZER(review) if word in ids][:width] for review in rows["review_raw"]]
    assert [list(got) for got in rows["review"]] == want
    feature = read_schema(bench.out)["review"]
    assert (feature.kind, feature.rows, feature.width) == ("text", 1 + len(keys), width)
    assert (feature.scope, feature.vocabulary) == ("shared", "review")


@pytest.mark.parametrize(("words", "max_df", "width"), [(None, 0.5, None), (60, 0.5, 9), (25, 0.2, 500), (9, 1.0, 3)])
def test_the_vocabulary_is_the_one_that_scikit_learn_chooses(bench, frame, words, max_df, width):
    given = {"words": words, "max_df": max_df, "width": width, "column": "review"}
    bench.recipe["split"] = {"random": {"val": 0.2, "test": 0.2}}
    report, rows = run(bench, frame, **{key: value for key, value in given.items() if value})
    train = [review for review in rows[rows["split"] == "train"]["review_raw"] if review]
    theirs = TfidfVectorizer(max_df=max_df, max_features=words).fit(train)
    left_out = set(ANALYZER(" ".join(train))) - set(theirs.vocabulary_)
    assert len(theirs.vocabulary_) == words or left_out == {"w0"}
    check(bench, rows, set(theirs.vocabulary_), width or 500)
    told = report["features"]["review"]
    assert told["rows"] == 1 + len(theirs.vocabulary_)
    raw, lengths = rows["review_raw"], rows["review"].map(len)
    for kind, mine in (("missing", raw == ""), ("empty", (raw != "") & (lengths == 0))):
        assert told[kind] == {split: int((mine & (rows["split"] == split)).sum()) for split in SPLITS}
        assert sum(told[kind].values()) >= 5
    assert rows[rows["split"] == "test"]["review"].map(len).max() > 0


def test_frequent_rare_and_equal_words(bench):
    """Four reviews (two are missing, the last one tests): `the` is in three of them, more than half."""
    texts = ["the cat sat sat", "The dog sat", "the dog: bee", "ant cat ant", "", "", "zebra ant the cat"]
    frame = pd.DataFrame({"review": texts, "time": range(7)})
    frame = frame.assign(user="u", item=[f"i{n}" for n in range(7)], domain="d", rating=5)
    bench.recipe["split"] = {"time": {"test_from": "1970-01-01T00:00:06"}}
    _, rows = run(bench, frame, words=3, min_count=2)
    assert bench.vocabulary("review")["key"].tolist() == ["", "sat", "ant", "cat"]  # not dog: of equals the last word
    assert bench.vocabulary("review")["count"].tolist() == [0, 3, 2, 2]
    got = rows.sort_values("time")["review"].map(list).tolist()
    assert got == [[3, 1, 1], [1], [], [2, 3, 2], [], [], [2, 3]]
    bench.recipe["features"][-1] |= {"words": 9, "max_df": 0.75}
    bench.run()
    assert bench.vocabulary("review")["key"].tolist() == ["", "sat", "the", "ant", "cat", "dog"]  # bee occurs once
    bench.recipe["features"][-1]["min_count"] = 1
    bench.run()
    assert bench.vocabulary("review")["key"].tolist() == ["", "sat", "the", "ant", "cat", "dog", "bee"]


def test_two_texts_of_one_vocabulary(bench, frame):
    frame["summary"] = reviews(len(frame), seed=1)
    bench.recipe["log"][0]["columns"]["summary"] = "text"
    bench.recipe["features"].append({"name": "summary", "kind": "text", "vocabulary": "review", "width": 4})
    bench.recipe["features"][-1]["max_df"] = 0.3
    _, rows = run(bench, frame, max_df=0.3)
    texts = [text for text in (*frame["review"], *frame["summary"]) if text]
    theirs = CountVectorizer(max_df=0.3).fit(texts)
    keys = bench.vocabulary("review")["key"].to_numpy()
    assert set(keys[1:]) == set(theirs.vocabulary_) < set(ANALYZER(" ".join(texts)))
    for name, width in (("review", 500), ("summary", 4)):
        want = [[word for word in ANALYZER(raw) if word in theirs.vocabulary_] for raw in rows[f"{name}_raw"]]
        assert [list(keys[ids]) for ids in rows[name]] == [words[:width] for words in want]


def test_nothing_depends_on_order_or_on_how_many_rows_go_at_once(bench, frame, monkeypatch):
    bench.recipe["split"] = {"random": {}, "drop_leaks": True}
    bench.recipe["features"].append({"name": "past", "kind": "ids", "last": 2})
    _, first = run(bench, frame)
    rows, vocabulary = bench.rows(), bench.vocabulary("review")
    monkeypatch.setattr(text, "AT_ONCE", 900)
    bench.log(frame.sample(frac=1, random_state=1))
    bench.run()
    pd.testing.assert_frame_equal(rows, bench.rows())
    pd.testing.assert_frame_equal(vocabulary, bench.vocabulary("review"))
    assert first["review"].map(len).max() > 20


def test_a_sampled_negative_has_no_text(bench, frame):
    bench.log(frame)
    recipe(bench)
    bench.recipe |= {"labels": {"label": "1"}, "split": {"random": {}}, "negatives": {"train": 2, "test": 1}}
    report = bench.run()
    rows = bench.rows()
    assert len(rows) > 2 * len(frame)
    assert (rows[rows["label"] == 0]["review"].map(len) == 0).all()
    positive = rows[rows["label"] == 1]
    assert (positive["review"].map(len) > 0).sum() > 0.9 * len(frame)
    told = report["features"]["review"]
    assert sum(told["missing"].values()) == (frame["review"] == "").sum() == 5
    empty = positive.groupby("split")["review"].apply(lambda lists: int((lists.map(len) == 0).sum())).to_dict()
    assert {split: told["missing"][split] + n for split, n in told["empty"].items()} == empty


def test_a_vocabulary_without_words(bench, frame):
    frame["review"] = "the same of all"
    bench.log(frame)
    recipe(bench, max_df=0.9)
    told = "prepare.yaml: features: 'review': no word is left: each of the 4 in training is in more than max_df 0.9"
    assert told in bench.fails()
    frame["review"] = "... a b c"
    bench.log(frame)
    assert "features: 'review': no training row has a word in column 'review'" in bench.fails()


def test_words_keep_their_ids_when_a_data_set_grows(bench, frame):
    early = frame["time"] < frame["time"].median()
    later = frame["review"].where(early, frame["review"] + " fresh fresh")
    recipe(bench, words=50, max_df=1.0)
    bench.log(frame[early])
    bench.run()
    old, before, digests = bench.out, bench.vocabulary("review"), read_schema(bench.out).digests
    bench.log(frame.assign(review=later))
    bench.run(grow=old)
    after = bench.vocabulary("review")
    assert after["key"][:51].tolist() == before["key"].tolist() and digests["review"] != ""
    theirs = CountVectorizer(max_features=50).fit([review for review in later if review])
    assert set(after["key"][51:]) == set(theirs.vocabulary_) - set(before["key"]) and after["key"][51] == "fresh"
    counts = pd.Series([word for review in later for word in ANALYZER(review)]).value_counts()
    assert after["count"][1:].tolist() == counts[after["key"][1:]].tolist()
    assert len(after) == read_schema(bench.out)["review"].rows
    bench.recipe["features"][-1]["words"] = 60
    assert f"features: 'review': words is 60, in {old} it is 50" in bench.fails(grow=old)


def test_little_memory_is_enough_for_long_reviews(bench):
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(5000)])
    frame = pd.DataFrame({"user": rng.integers(900, size=10_000), "item": rng.integers(900, size=10_000)})
    frame = frame.assign(domain="d", rating=5, time=range(10_000))
    frame["review"] = [" ".join(words[(5000 * rng.random(300) ** 2).astype(int)]) for _ in range(10_000)]
    bench.recipe |= {"memory_gb": 0.125}
    _, rows = run(bench, frame, width=200, max_df=1.0)
    keys = bench.vocabulary("review")["key"].to_numpy()
    for ids, raw in zip(rows["review"], rows["review_raw"], strict=True):
        assert list(keys[ids]) == raw.split()[:200]


@pytest.mark.slow
def test_ray_makes_the_same_files(bench, frame):
    for place in range(3):
        bench.log(frame[place::3], f"part-{place}.csv")
    bench.recipe["log"][0]["files"] = ["part-*.csv"]
    bench.file("words.txt", "w1 1 2\nw2 3 4\n")
    recipe(bench, vectors="words.txt")
    bench.recipe |= {"split": {"random": {}}, "negatives": {"train": 1}}
    first = bench.run()
    here = {path.relative_to(bench.out): path.read_bytes() for path in Path(bench.out).rglob("*") if path.is_file()}
    second = bench.run(workers=2)
    there = {path.relative_to(bench.out): path.read_bytes() for path in Path(bench.out).rglob("*") if path.is_file()}
    assert first == second and here == there and Path("vectors/review.parquet") in here


# pretrained vectors


def vectors(words: list[str], width: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(len(words), width)).round(4)


def lines(words: list[str], matrix: np.ndarray, end: str = "\n") -> str:
    return "".join(f"{word} {' '.join(map(str, row))}{end}" for word, row in zip(words, matrix, strict=True))


@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize(("header", "packed"), [(False, False), (True, True)])
def test_vectors_of_the_words_that_have_one(bench, frame, header, packed, end):
    words = [*(f"w{n}" for n in range(0, 90, 7)), "W1", "unheard", "naïve", "a", "中文", "w7"]  # the first w7 counts
    matrix = vectors(words)
    content = (f"{len(words)} 3\n" if header else "") + lines(words, matrix, end)
    name = "words.txt.gz" if packed else "words.txt"
    bench.file(name, gzip.compress(content.encode()) if packed else content)
    report, _ = run(bench, frame, vectors=name)
    keys = bench.vocabulary("review")["key"].tolist()
    known = dict(reversed([*zip(words, matrix.astype(np.float32), strict=True)]))
    want = {number: known[key] for number, key in enumerate(keys) if key in known}
    found = read_vectors(bench.out, "review")
    assert found is not None and found["id"].to_pylist() == list(want) and len(want) == 14
    assert found.schema.field("vector").type.list_size == 3
    np.testing.assert_array_equal(np.stack(found["vector"].to_numpy()), np.stack(list(want.values())))
    assert report["features"]["review"]["vectors"] == {"found": 14, "of": len(keys) - 1, "width": 3}


def test_a_data_set_without_vectors(bench, frame):
    run(bench, frame)
    assert read_vectors(bench.out, "review") is None and not Path(bench.out, "vectors").exists()


def test_vectors_of_a_remote_data_set(bench, frame):
    bench.file("words.txt", "w1 1 2\nw2 3 4\n")
    bench.log(frame)
    recipe(bench, vectors="words.txt", vocabulary="a/b")
    bench.run(out="memory://prepare-text/data")
    found = read_vectors("memory://prepare-text/data", "a/b")
    assert found is not None and sorted(map(tuple, found["vector"].to_pylist())) == [(1, 2), (3, 4)]
    assert layout.read_vocabulary("memory://prepare-text/data", "a/b")["key"][0].as_py() == ""
    fsspec.filesystem("memory").rm("/prepare-text", recursive=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("w1 1 2\nw2 3\n", "words.txt:2: 1 numbers after the word 'w2', expected 2"),
        ("w1 1 2\n\nunheard 3 4 5\n", "words.txt:3: 3 numbers after the word 'unheard', expected 2"),
        ("2 3\nw1 1 2\n", "words.txt:2: 2 numbers after the word 'w1', expected 3"),
        ("w1\nw2 1\n", "words.txt:1: 0 numbers after the word 'w1', expected some"),
        ("x 1 2\nw1 1 two\n", "words.txt:2: w1: could not convert string to float: 'two'"),
        ("w1 1 nan\n", "words.txt:1: w1: 'nan' is not a finite number"),
        ("w1 1e99 2\n", "words.txt:1: w1: '1e99' is not a finite number"),
        ("W1 1 2\nunheard 3 4\n", "words.txt: none of the 411 words of vocabulary 'review' is in this file of vectors"),
        ("", "words.txt: the file is empty"),
        (None, "words.txt: no such file of vectors"),
    ],
)
def test_a_wrong_file_of_vectors(bench, frame, content, told):
    bench.log(frame)
    recipe(bench, vectors="words.txt")
    if content is not None:
        bench.file("words.txt", content)
    assert f"{bench.raw}/{told}" in bench.fails()


def test_packed_vectors_that_are_cut_short(bench, frame):
    bench.log(frame)
    recipe(bench, vectors="words.txt.gz")
    bench.file("words.txt.gz", gzip.compress(lines(["w1"] * 900, vectors(["w1"] * 900)).encode())[:-200])
    assert "words.txt.gz: cannot be unpacked" in bench.fails()
