import numpy as np
import pytest
import torch

from mdr_dist.errors import UserError
from mdr_dist.nn.fields import Fields
from mdr_dist.stage import Init
from support.rows import SCHEMA, make_batch

INIT = Init("normal", 0.01)


def test_width_counts_embeddings_and_dense() -> None:
    assert Fields(SCHEMA, dim=4).width == 5 * 4 + 2
    assert Fields(SCHEMA, dim=4, domain=False).width == 4 * 4 + 2
    assert Fields(SCHEMA, ("price", "tags"), dim=4).width == 2 * 4 + 2
    assert Fields(SCHEMA, ("domain", "tags"), dim=4, domain=False).width == 4


def test_a_vocabulary_is_one_table() -> None:
    specs = Fields(SCHEMA, dim=4).tables("x/", init=INIT)
    assert [(spec.name, spec.rows, spec.features, spec.pool) for spec in specs] == [
        ("x/user", 7, ("user",), "sum"),
        ("x/item", 9, ("item", "history"), "mean"),
        ("x/domain", 3, ("domain",), "sum"),
        ("x/tags", 5, ("tags",), "mean"),
    ]
    assert all(spec.dim == 4 and spec.init == INIT for spec in specs)


def test_vector_is_each_feature_s_row_then_dense() -> None:
    fields, batch = Fields(SCHEMA, dim=2), make_batch(4)
    order = ("x/user.user", "x/item.item", "x/item.history", "x/domain.domain", "x/tags.tags")
    rows = {key: torch.full((4, 2), float(i), dtype=torch.float64) for i, key in enumerate(order)}
    found = fields.vector(rows, batch, "x/")
    assert found.shape == (4, fields.width)
    np.testing.assert_array_equal(found[:, :10], np.repeat(np.arange(5.0), 2)[None].repeat(4, 0))
    np.testing.assert_array_equal(found[:, 10:], batch.dense["price"])


def test_wrong_features_are_told() -> None:
    with pytest.raises(
        UserError, match="data set tiny has no 'colour'; it has user, item, domain, history, price, tags"
    ):
        Fields(SCHEMA, ("user", "colour"), dim=4)
    with pytest.raises(UserError, match="none left"):
        Fields(SCHEMA, ("domain",), dim=4, domain=False)
