"""A wrong recipe is told by its key, before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdr_dist.config import load
from mdr_dist.data.prepare.recipe import Recipe

RECIPES = sorted(map(str, Path(__file__).parents[3].glob("jobs/*/prepare.yaml")))


def test_the_shipped_recipes_are_valid():
    assert len(RECIPES) >= 6
    for path in RECIPES:
        recipe = load(Recipe, path)
        assert recipe.max_rejected == 0


def change(recipe: dict, path: str, value: object) -> None:
    *keys, last = path.split(".")
    for key in keys:
        recipe = recipe[int(key)] if key.isdigit() else recipe[key]
    recipe[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("colour", 1, "unknown key 'colour'; known here: "),
        ("log.0.delimeter", ";", "unknown key 'log.0.delimeter'; known here: columns, constants, delimiter"),
        ("features.1.kind", "words", "features.1.kind: Input should be 'id', 'ids', 'text' or 'dense', got 'words'"),
        ("features.1.kind", "text", "feature item: 'of' means nothing for kind text"),
        ("features.0", {"name": "user", "kind": "text", "scope": "domain"}, "'scope' means nothing for kind text"),
        ("features.0", {"name": "user", "kind": "text"}, "no feature 'user' of kind id"),
        ("features.0.max_df", 0.3, "'max_df' means nothing for kind id"),
        ("features.1", {"name": "item", "kind": "text", "max_df": 1.5}, "max_df: Input should be less than or equal"),
        ("features", [{"name": "user"}, {"name": "item"}, {"name": "rating", "kind": "text", "vocabulary": "item"}],
         "vocabulary 'item': its features differ in kind"),
        ("features", [{"name": "user"}, {"name": "item"}, {"name": "rating", "kind": "text", "vocabulary": "word"},
                      {"name": "domain_name", "column": "domain", "kind": "text", "vocabulary": "word", "words": 9}],
         "vocabulary 'word': its features differ in words"),
        ("split", {"random": {"tset": 0.1}}, "unknown key 'split.random.tset'; known here: test, val"),
        ("split", {"random": {}, "user": {}}, "one rule only"),
        ("split", {"random": {}, "cold_start": {"domain": "d"}}, "one rule only: random, user, last, time, column or"),
        ("split", {"cold_start": {}}, "split.cold_start.domain: Field required"),
        ("split", {"cold_start": {"domain": "d", "users": 1}}, "users: Input should be less than 1"),
        ("split", {"cold_start": {"domain": "d", "common": 0}}, "common: Input should be greater than 0"),
        ("split", {"random": {"val": 0.5, "test": 0.5}}, "leave nothing to train on"),
        ("split", {"column": {"column": "fold"}}, "no column 'fold'"),
        ("domain", {"column": "region"}, "no column 'region'; there are domain, item, rating, time, user"),
        ("domain", {"column": "domain", "largest": 2, "keep": ["d0"]}, "either `keep` or `largest`"),
        ("dedupe", {"by": ["user"], "keep": "max"}, "`value` goes with `keep: max`"),
        ("dedupe", {"by": ["user", "split"], "keep": "last"}, "needs a shipped split"),
        ("labels", {"user": "rating"}, "label name 'user' is reserved or a feature's"),
        ("within", {"stars": [1, 5]}, "within: no label 'stars'; there are label"),
        ("within", {"label": [5, 1]}, "within: label: no number is within [5, 1]; give the lower bound first"),
        ("within", {"label": [1]}, "within.label.1: Field required"),
        ("user", "person", "no feature 'person' of kind id"),
        ("features.0.name", "weight", "feature name 'weight' is reserved"),
        ("features.0.log1p", True, "'log1p' means nothing for kind id"),
        ("features.1", {"name": "item", "vocabulary": "user", "min_count": 3},
         "vocabulary 'user': its features differ in min_count"),
        ("features.0", {"name": "user", "kind": "ids"}, "no feature 'user' of kind id"),
        ("periods", {"count": 1}, "a `count` of 2 or more"),
        ("time", None, ""),
        ("derive", {"rating": "1"}, "'rating' is there already"),
        ("log.0.pattern", "(", "is not a regular expression"),
        ("tables", {"users": {"files": ["u"], "format": "csv", "columns": {"name": "text"}, "keys": ["name"]}},
         "table users: no column 'name' to join on"),
        ("max_rejected", -1, "max_rejected: Input should be greater than or equal to 0, got -1"),
    ],
)  # fmt: skip
def test_a_wrong_recipe(bench, path, value, told):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\n")
    if path == "time":
        bench.recipe["split"], told = {"last": {}}, "need `time`"
    change(bench.recipe, path, value)
    message = bench.fails()
    assert told in message and message.startswith(f"{bench.folder}/jobs/tiny/prepare.yaml: ")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("labels.label", "ratng >= 4", "labels.label: 'ratng >= 4': Binder Error"),
        ("where", ["rating >"], "where.0: 'rating >': Parser Error"),
        ("derive", {"old": "read_text('/etc/hostname')"}, "derive.old: "),
        ("derive", {"old": "(SELECT max(content) FROM read_text('/etc/hostname'))"}, "derive.old: "),
        ("derive", {"old": "CAST(domain AS INT)"}, "Conversion Error"),
        ("split", {"time": {"test_from": "soon"}}, "split.time.test_from: 'soon' is not a date"),
        ("domain", {"column": "domain", "keep": ["d", "e"]}, "domain.keep: domain 'e' has no rows; there are d"),
        ("domain", {"column": "domain", "largest": 2}, "domain.largest is 2, but there are 1: d"),
        ("where", ["rating > 9"], "no row is left"),
        ("split", {"cold_start": {"domain": "e"}}, "split.cold_start: no domain 'e'; there are d"),
        ("split", {"cold_start": {"domain": "d"}}, "split.cold_start: no user has rows in 'd' and in another domain"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data(bench, path, value, told):
    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\n")
    change(bench.recipe, path, value)
    if path == "derive":
        bench.recipe["features"].append({"name": "old"})
    message = bench.fails()
    assert told in message and message.startswith(f"{bench.folder}/jobs/tiny/prepare.yaml: ")


def test_where_the_raw_files_are(bench, monkeypatch, tmp_path):
    from mdr_dist.data.prepare import prepare
    from mdr_dist.errors import UserError

    bench.file("log.csv", "user,item,domain,rating,time\na,i,d,5,7\n")
    bench.run()
    recipe = str(tmp_path / "jobs/tiny/prepare.yaml")
    monkeypatch.delenv("MDR_DATA", raising=False)
    with pytest.raises(UserError, match="Give --raw DIR, or set MDR_DATA"):
        prepare(recipe, str(tmp_path / "other"))
    monkeypatch.setenv("MDR_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/tiny: no such folder"):
        prepare(recipe, str(tmp_path / "other"))
    bench.raw.rename(tmp_path / "tiny")
    assert prepare(recipe, str(tmp_path / "other"))["rows"]["written"] == 1
