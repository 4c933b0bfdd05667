"""What is made of documents, one after the other, against loops over their words."""

from __future__ import annotations

import pytest
import torch

from mdr_dist.batch import Ragged
from mdr_dist.nn.text import largest


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_of_each_number_and_its_gradient(seed: int) -> None:
    """Words repeat, so that a document has its largest several times."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(6, 4, generator=draw, dtype=torch.float64) - 2  # 0 is larger than most
    documents = [[], [3], *(torch.randint(0, 6, (size,), generator=draw).tolist() for size in (9, 4, 2)), []]
    words = Ragged(
        torch.tensor([word for own in documents for word in own]), torch.tensor([len(own) for own in documents])
    )
    weight = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    x = vectors.clone().requires_grad_()
    found = largest(x, words)
    (found * weight).sum().backward()
    gradient = torch.zeros_like(vectors)
    for n, own in enumerate(documents):
        for number in range(4):
            best = max(own, key=lambda word: float(vectors[word, number]), default=None)
            assert found[n, number].item() == (0.0 if best is None else vectors[best, number])
            if best is not None:
                gradient[best, number] += weight[n, number]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient)


def test_no_words_at_all() -> None:
    words = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    for size in (0, 4):
        x = torch.ones(size, 2, requires_grad=True)
        found = largest(x, words)
        found.sum().backward()
        assert found.tolist() == [[0.0, 0.0]] * 3 and x.grad is not None and not x.grad.any()
