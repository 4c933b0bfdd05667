"""Every format reads to the same rows, and every kind of bad file or bad row is told in one line."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

COLUMNS = ["user", "item", "domain", "rating", "time"]


def same(bench, frame: pd.DataFrame) -> None:
    """The data set holds the frame's rows, whatever their order."""
    got = bench.decoded()[["user", "item", "domain", "label", "time"]]
    want = frame.assign(label=(frame["rating"] >= 4).astype(np.float32))[["user", "item", "domain", "label", "time"]]
    order = ["user", "item", "domain", "time"]
    got, want = got.sort_values(order, ignore_index=True), want.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(got, want.astype(got.dtypes.to_dict()), check_dtype=False)


def test_csv(bench, frame):
    bench.log(frame)
    report = bench.run()
    same(bench, frame)
    assert report["rows"]["read"] == report["rows"]["written"] == len(frame)


def zipped(*files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for place, content in enumerate(files):
            archive.writestr(f"folder/{place}.txt", content)
    return buffer.getvalue()


PACKINGS = {"gz": gzip.compress, "zst": lambda text: pa.compress(text, codec="zstd", asbytes=True), "zip": zipped}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_csv(bench, frame, packing):
    bench.file(f"log.csv.{packing}", PACKINGS[packing](frame.to_csv(index=False).encode()))
    bench.recipe["log"][0]["files"] = [f"log.csv.{packing}"]
    bench.run()
    same(bench, frame)


def test_tsv_without_header_and_with_other_line_ends(bench, frame):
    bench.file("log.tsv", frame.to_csv(index=False, header=False, sep="\t", lineterminator="\r\n"))
    bench.recipe["log"][0] |= {"files": ["log.tsv"], "format": "tsv", "header": False}
    bench.run()
    same(bench, frame)


def test_jsonl_with_blank_lines(bench, frame):
    lines = [json.dumps(row) for row in frame.to_dict("records")]
    bench.file("log.jsonl", "\n\n".join(lines))
    bench.recipe["log"][0] |= {"files": ["log.jsonl"], "format": "jsonl"}
    bench.run()
    same(bench, frame)


def test_parquet(bench, frame):
    pq.write_table(pa.table(frame), bench.raw / "log.parquet")
    bench.recipe["log"][0] |= {"files": ["log.parquet"], "format": "parquet"}
    bench.run()
    same(bench, frame)


def test_mat(bench, frame):
    numbers = frame.assign(**{column: frame[column].str[1:].astype(int) for column in ("user", "item", "domain")})
    scipy.io.savemat(bench.raw / "log.mat", {"rating": numbers[COLUMNS].to_numpy(np.float64)})
    bench.recipe["log"][0] |= {"files": ["log.mat"], "format": "mat", "variable": "rating"}
    bench.recipe["log"][0]["columns"] = dict.fromkeys(COLUMNS, "int")
    bench.run()
    same(bench, numbers.astype(dict.fromkeys(("user", "item", "domain"), str)))


def test_remote_files_and_globs(bench, frame):
    memory = fsspec.filesystem("memory")
    half = len(frame) // 2
    for place, part in enumerate((frame[:half], frame[half:])):
        memory.pipe_file(f"/prepare-read/part-{place}.csv", part.to_csv(index=False).encode())
    bench.recipe["log"][0]["files"] = ["memory://prepare-read/part-*.csv"]
    report = bench.run()
    memory.rm("/prepare-read", recursive=True)
    same(bench, frame)
    assert list(report["rows"]["files"].values()) == [half, len(frame) - half]


def test_pattern_and_constants_become_columns(bench, frame):
    for domain, part in frame.groupby("domain"):
        bench.log(part.drop(columns="domain"), f"{domain}.csv")
    entry = bench.recipe["log"][0]
    del entry["columns"]["domain"]
    entry |= {"files": ["d*.csv"], "pattern": r"(?P<domain>d\d)\.csv", "constants": {"origin": "web"}}
    bench.recipe["features"].append({"name": "origin"})
    bench.run()
    same(bench, frame)
    assert set(bench.decoded()["origin"]) == {"web"}


def test_quotes_nulls_and_latin1(bench):
    bench.file("log.csv", 'user,item,domain,rating,time\n"caf\xe9, ""a""",NULL,d,5,7\nb,i,d,1,8\n'.encode("latin-1"))
    bench.recipe["log"][0] |= {"encoding": "latin-1", "nulls": ["", "NULL"]}
    bench.recipe["max_rejected"] = 1
    report = bench.run()
    assert report["rows"]["rejected"] == 1  # the item of the first row is missing
    rejected = json.loads((bench.folder / "out0/rejected/rejected.jsonl").read_text())
    assert rejected["line"] == 2 and rejected["column"] == "item" and rejected["text"].startswith('caf\xe9, "a"')


def test_large_numbers_stay_exact(bench):
    bench.file("log.csv", "user,item,domain,rating,time\n9007199254740993,i,d,5,7\n9007199254740992,i,d,5,7\n")
    bench.recipe["log"][0]["columns"]["user"] = "int"
    bench.run()
    assert set(bench.decoded()["user"]) == {"9007199254740993", "9007199254740992"}


HEAD = "user,item,domain,rating,time\n"
GOOD = "a,i,d,5,7\n"
BAD_ROWS = {
    "few": ("a,i,d\n", "", "Expected Number of Columns: 5 Found: 3"),
    "many": ("a,i,d,5,7,8\n", "", "Expected Number of Columns: 5 Found: 6"),
    "float": ("a,i,d,five,7\n", "rating", "not a finite number"),
    "infinite": ("a,i,d,inf,7\n", "rating", "not a finite number"),
    "int": ("a,i,d,5,7.5\n", "time", "not a whole number"),
    "empty label": ("a,i,d,,7\n", "label", "the label is missing or no number"),
    "NaN label": ("a,i,d,nan,7\n", "label", "the label is missing or no number"),
    "no user": (",i,d,5,7\n", "user", "is missing"),
    "no domain": ("a,i,,5,7\n", "domain", "is missing"),
    "no time": ("a,i,d,5,\n", "time", "is not a time of format unix"),
}


BAD_LATE = {"empty label", "NaN label", "no user", "no domain", "no time"}  # found after the files are read


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_stops_the_job_or_is_put_aside(bench, kind):
    row, column, reason = BAD_ROWS[kind]
    # a quoted line break and a blank line stand before, so rows and lines differ; so does another bad row
    bench.file("log.csv", HEAD + GOOD + '"x\ny",i,d,5,7\n\n' + row + GOOD)
    message = bench.fails()
    assert message.startswith(f"{bench.raw}/log.csv:6: ")
    assert reason in message and column in message and "max_rejected is 0" in message
    bench.recipe["max_rejected"] = 2
    bench.file("log.csv", HEAD + GOOD + '"x\ny",i,d,5,7\n\n' + row + GOOD + "too,few\n" + GOOD + "a,i,d,x,7")
    third = 6 if kind in BAD_LATE else 10
    assert bench.fails().startswith(f"{bench.raw}/log.csv:{third}: ")
    bench.recipe["max_rejected"] = 3
    report = bench.run()
    assert report["rows"]["rejected"] == 3
    assert report["rows"]["written"] == 4
    lines = [json.loads(line) for line in Path(bench.out, "rejected/rejected.jsonl").read_text().splitlines()]
    found = next(line for line in lines if line["line"] == 6)
    assert found["file"].endswith("log.csv") and found["column"] == column and found["reason"] == reason
    assert found["text"] == row.rstrip("\n")
    assert sorted(line["line"] for line in lines) == [6, 8, 10]


@pytest.mark.parametrize("line", ['{"user": "a"', "[1]", "7", "plain"])
def test_bad_json_lines(bench, line):
    good = '{"user": "a", "item": "i", "domain": "d", "rating": 5, "time": 7}\n'
    bench.file("log.jsonl", good + "\n" + line + "\n" + good)
    bench.recipe["log"][0] |= {"files": ["log.jsonl"], "format": "jsonl"}
    message = bench.fails()
    assert f"log.jsonl:3: not a JSON object: {line!r}" in message
    bench.recipe["max_rejected"] = 1
    assert bench.run()["rows"]["written"] == 2


def test_bad_parquet_row(bench):
    table = pa.table(
        {"user": ["a", "a"], "item": ["i", "j"], "domain": ["d", "d"], "rating": ["5", "x"], "time": [1, 2]}
    )
    pq.write_table(table, bench.raw / "log.parquet")
    bench.recipe["log"][0] |= {"files": ["log.parquet"], "format": "parquet"}
    message = bench.fails()
    assert "log.parquet:2: rating: not a finite number" in message and '"item":"j"' in message


def test_invalid_encoding_is_a_bad_row(bench):
    bench.file("log.csv", HEAD.encode() + GOOD.encode() + "caf\xe9,i,d,5,7\n".encode("latin-1"))
    assert "log.csv:3: " in bench.fails()


def test_an_open_quote_stops_the_job_even_where_rows_may_be_rejected(bench):
    bench.file("log.csv", HEAD + GOOD + '"a,i,d,5,7\n' + GOOD * 3)
    bench.recipe["max_rejected"] = 10
    message = bench.fails()
    assert "log.csv:3: a quoted value does not end" in message and "quote" in message


def pack_parquet(frame: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(frame), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("packing", ["csv.gz", "csv.zst", "csv.zip", "parquet"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_cut_short_stops_the_job(bench, frame, packing, share):
    text = frame.to_csv(index=False).encode()
    whole = pack_parquet(frame) if packing == "parquet" else PACKINGS[packing.removeprefix("csv.")](text)
    bench.file(f"log.{packing}", whole[: int(share * len(whole))])
    bench.recipe["log"][0] |= {"files": [f"log.{packing}"], "format": packing.split(".")[0]}
    bench.recipe["max_rejected"] = 100
    assert f"log.{packing}: " in bench.fails()


def test_an_archive_of_two_files(bench, frame):
    bench.file("log.csv.zip", zipped(HEAD.encode(), GOOD.encode()))
    bench.recipe["log"][0]["files"] = ["log.csv.zip"]
    assert "log.csv.zip: holds 2 files; an archive of one file can be read" in bench.fails()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "log.csv: the file is empty"),
        (HEAD, "log.csv: the file holds no rows"),
        ("user,item,domain,rating\na,i,d,5\n", "column 'time' is missing; the file has user, item, domain, rating"),
        ("user,item,domain,rating,time,time\na,i,d,5,7,7\n", "column 'time' stands twice"),
    ],
)
def test_wrong_csv_files(bench, content, told):
    bench.file("log.csv", content)
    assert told in bench.fails()


def test_extra_columns_are_read_past_unless_strict(bench):
    bench.file("log.csv", "user,more,item,domain,rating,time\na,x,i,d,5,7\n")
    assert bench.run()["rows"]["written"] == 1
    assert bench.decoded()["item"].tolist() == ["i"]


def test_extra_columns_are_refused_where_strict(bench):
    bench.file("log.csv", "user,more,item,domain,rating,time\na,x,i,d,5,7\n")
    bench.recipe["log"][0]["strict_columns"] = True
    assert "column 'more' is not in the recipe's columns" in bench.fails()


def test_a_jsonl_column_that_no_line_has(bench):
    bench.file("log.jsonl", '{"user": "a", "item": "i", "domain": "d", "rating": 5}\n')
    bench.recipe["log"][0] |= {"files": ["log.jsonl"], "format": "jsonl"}
    assert "column 'time' is missing: no line has a value for it" in bench.fails()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"other": np.ones((2, 5))}, "no matrix named 'rating'"),
        ({"rating": np.ones((2, 4))}, "rating has the shape (2, 4), the recipe names 5 columns"),
        (None, "not a readable .mat file"),
    ],
)
def test_wrong_mat_files(bench, content, told):
    if content:
        scipy.io.savemat(bench.raw / "log.mat", content)
    else:
        bench.file("log.mat", b"no matrix" * 100)
    bench.recipe["log"][0] |= {"files": ["log.mat"], "format": "mat", "variable": "rating"}
    assert told in bench.fails()


def test_missing_files_and_names_outside_the_pattern(bench):
    assert f"{bench.raw}/log.csv: no such file" in bench.fails()
    bench.recipe["log"][0]["files"] = ["part-*.csv"]
    assert f"{bench.raw}/part-*.csv: no such file" in bench.fails()
    bench.file("part-1.csv", HEAD + GOOD)
    bench.recipe["log"][0]["pattern"] = r"part-(?P<day>[a-z])\.csv"
    assert "part-1.csv does not match pattern" in bench.fails()


def test_a_pattern_may_tell_columns_from_folders(bench):
    for day in ("a", "b"):
        (bench.raw / f"day-{day}").mkdir()
        bench.file(f"day-{day}/part-1.csv", HEAD + GOOD)
    bench.recipe["log"][0] |= {"files": ["*/part-1.csv"], "pattern": r"day-(?P<day>[a-z])/part-(?P<part>\d)\.csv"}
    bench.recipe["where"] = ["day = 'b' and part = '1'"]
    rows = bench.run()["rows"]
    assert rows["read"] == 2 * rows["kept"] > 0


def test_a_file_named_twice(bench):
    bench.file("log.csv", HEAD + GOOD)
    bench.recipe["log"][0]["files"] = ["log.csv", "*.csv"]
    assert "log.csv: matched twice" in bench.fails()
