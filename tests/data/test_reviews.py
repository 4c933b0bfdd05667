"""The reviews of a domain, and which stands for which: every rule written out over the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from mdr_dist.data import reviews as module
from mdr_dist.data.negatives import uniforms
from mdr_dist.data.reader import Reader
from mdr_dist.data.reviews import Reviews
from mdr_dist.errors import UserError
from support.documents import Log, rated

Make = Callable[..., Any]
SIZES = {("train", "books", -1): 210, ("train", "films", -1): 90, ("test", "books", -1): 20}
NOBODY = np.zeros(0, dtype=np.int64)


def reviews_of(*rows: tuple[int, int, float]) -> Reviews:
    """Reviews without words, by (user, item, rating)."""
    user, item, rating = zip(*rows, strict=True) if rows else ((), (), ())
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    ids = (np.array(values, dtype=np.int64) for values in (user, item))
    return Reviews(*ids, np.array(rating, dtype=np.float32), np.zeros(0, dtype=np.int32), starts)


@pytest.mark.parametrize("domain", [0, 1])
def test_the_training_reviews_in_order(tiny: Make, domain: int) -> None:
    data = tiny(SIZES, change=rated)
    found, rows = Reviews.open(Reader(data.dataset), domain=domain), Log(data).rows[domain]
    assert len(found.user) == len(rows) > 64  # several shards
    assert found.user.tolist() == [row["user_key"] for row in rows]
    assert found.item.tolist() == [row["item"] for row in rows]
    assert found.rating.tolist() == [row["click"] for row in rows]
    words = [found.words[slice(*part)].tolist() for part in zip(found.starts, found.starts[1:], strict=False)]
    assert words == [row["words"] for row in rows]
    assert found.words.dtype == np.int32 and found.starts[-1] == len(found.words)


def test_reviews_up_to_a_period(tiny: Make) -> None:
    data = tiny({("train", d, p): 40 for d in ("books", "films") for p in (0, 1, 2)}, change=rated)
    for period in (0, 1, 2):
        found = Reviews.open(Reader(data.dataset), domain=1, period=period)
        assert found.user.tolist() == [row["user_key"] for row in Log(data, upto=period).rows[1]]


def test_a_domain_may_have_no_review_and_no_word(tiny: Make) -> None:
    data = tiny({("train", "books", -1): 5, ("test", "films", -1): 5}, change=lambda _, table: _wordless(table))
    none, wordless = (Reviews.open(Reader(data.dataset), domain=domain) for domain in (1, 0))
    assert len(none.user) == len(none.words) == len(none.alike(NOBODY)) == 0 and none.starts.tolist() == [0]
    assert wordless.starts.tolist() == [0] * 6 and len(wordless.words) == 0


def _wordless(table: Any) -> Any:
    at = table.column_names.index("words")
    return table.set_column(at, table.schema.field(at), pa.array([[]] * table.num_rows, table.schema.field(at).type))


# which stands for which


def test_one_that_is_alike_for_each(tiny: Make) -> None:
    data = tiny(SIZES, change=rated)
    log = Log(data)
    common = np.array(sorted(log.common))
    steps: Counter[float] = Counter()
    for domain in (0, 1):
        found = Reviews.open(Reader(data.dataset), domain=domain).alike(common)
        for row, place in zip(log.rows[domain], found.tolist(), strict=True):
            allowed = log.alike(domain, row)
            assert (place in allowed) if allowed else place == -1
            steps[log.rows[domain][place]["click"] - row["click"] if allowed else 9] += 1
    assert set(steps) == {0, 1, -1, 9}  # each rule was asked


def test_the_same_rating_comes_first_then_one_more_then_one_less() -> None:
    mine = (1, 7, 3)
    others = {"same": (2, 7, 3), "more": (3, 7, 4), "less": (4, 7, 2), "far": (5, 7, 5), "item": (6, 8, 3)}
    names = list(others)

    def first(*left: str, common: tuple[int, ...] = ()) -> str:
        place = reviews_of(mine, *(others[name] for name in left)).alike(np.array(common, dtype=np.int64))[0]
        return left[place - 1] if place > 0 else str(place)

    assert first(*names) == first(*names[::-1]) == "same"
    assert first(*names[1:]) == first(*names[:0:-1]) == "more"
    assert first(*names[2:]) == "less"
    assert first(*names[3:]) == "-1"
    assert first(*names, common=(2,)) == "more"
    assert first(*names, common=(1, 2, 3)) == "less"  # her own being common changes nothing
    assert first(*names, common=(2, 3, 4, 5, 6)) == "-1"
    assert reviews_of(mine).alike(NOBODY).tolist() == [-1]
    assert reviews_of((1, 7, 3), (1, 7, 3), (1, 7, 4)).alike(NOBODY).tolist() == [-1, -1, -1]
    assert reviews_of((1, 7, 3.5), (2, 7, 4), (3, 7, 3), (4, 7, 4.5)).alike(NOBODY)[0] == 3


def test_any_other_is_as_likely_and_never_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(9, 4, 3), (1, 5, 3), (2, 5, 3), (2, 5, 3), (3, 5, 3), (2, 5, 3), (4, 5, 3), (8, 6, 3), (5, 5, 3)]
    counts: Counter[int] = Counter()
    for seed in range(3000):
        monkeypatch.setattr(module, "seed_of", lambda *_, seed=seed: seed)
        found = reviews_of(*rows).alike(np.array([4]))
        assert all(rows[place][0] != row[0] for row, place in zip(rows, found.tolist(), strict=True) if place >= 0)
        counts[int(found[3])] += 1
    assert set(counts) == {1, 4, 8}  # of user 2; 4 is common
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_what_is_drawn_is_drawn_again_and_differs_by_review() -> None:
    rows = [(user, 5, 3.0) for user in range(200)]
    one, two = (reviews_of(*rows).alike(NOBODY) for _ in range(2))
    assert (one == two).all() and len(set(one.tolist())) > 100
    assert (one != np.arange(200)).all()
    at = np.argsort(uniforms(np.arange(200), 1, module.seed_of("auxiliary"))[0])
    assert (np.diff(one[at]) >= 0).mean() > 0.9  # in order of the numbers drawn, but for the own ones left out


def test_a_data_set_without_text(tiny: Make) -> None:
    data = tiny(SIZES)
    assert data.dataset.schema.text.name == "words"
    features = tuple(feature for feature in data.dataset.schema.features if feature.kind != "text")
    schema = data.dataset.schema.model_copy(update={"features": features})
    again = data.write(schema, {key: table.drop(["words"]) for key, table in data.tables.items()})
    with pytest.raises(UserError, match=r"data set tiny has no text, .* its recipe needs a text feature"):
        Reviews.open(Reader(again.dataset), domain=0)
