"""What is made of documents, one after the other, against loops over their words."""

from __future__ import annotations

import pytest
import torch

from mdr_dist.batch import Ragged
from mdr_dist.nn.text import attention, largest, sums, windowed


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


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def test_sums_windows_and_attention_beside_loops() -> None:
    """Their values by loops over words, their gradients by finite differences; words repeat, documents are empty."""
    documents = [[], [3, 3, 0], [1], [5, 2, 3, 1, 2], []]
    words = Ragged(torch.tensor([3, 3, 0, 1, 5, 2, 3, 1, 2]), torch.tensor([len(own) for own in documents]))
    x, logit, taps = drawn(0, 9, 2, 3), drawn(1, 9, 2), drawn(2, 6, 3, 4)
    own = [range(0), range(3), range(3, 4), range(4, 9), range(9, 9)]
    torch.testing.assert_close(sums(x, words), torch.stack([x[list(o)].sum(0) for o in own]))
    attended = torch.stack([(logit[list(o)].softmax(0)[:, :, None] * x[list(o)]).sum(0) for o in own])
    torch.testing.assert_close(attention(logit, x, words), attended)
    around = [
        torch.stack([taps[d[n + c - 1], c] for c in range(3) if 0 <= n + c - 1 < len(d)]).sum(0)
        for d in documents
        for n in range(len(d))
    ]
    torch.testing.assert_close(windowed(taps, words), torch.stack(around))
    assert torch.autograd.gradcheck(lambda x: sums(x, words), x)
    assert torch.autograd.gradgradcheck(lambda taps: windowed(taps, words), taps)
    assert torch.autograd.gradcheck(lambda logit, x: attention(logit, x, words), (logit, x))
    assert torch.autograd.gradcheck(lambda taps: windowed(taps, words), taps)


def test_nothing_to_sum() -> None:
    words = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    x, logit, taps = drawn(0, 0, 2, 3), drawn(0, 0, 2), drawn(0, 6, 3, 4)
    total = sums(x, words).sum() + attention(logit, x, words).sum() + windowed(taps, words).sum()
    total.backward()
    assert total == 0 and taps.grad is not None and not taps.grad.any()
