import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from mdr_dist.nn import loss
from mdr_dist.nn.loss import bce, contrast, l2
from support.rows import cut, make_batch

LOGITS = torch.linspace(-3, 3, 12, dtype=torch.float64)


@pytest.mark.parametrize("padding", [0, 4])
def test_bce_over_rows_is_the_log_loss(padding: int) -> None:
    (batch,) = cut(make_batch(12), 1, padding=padding)
    logits = torch.cat([LOGITS, torch.full((padding,), 50.0, dtype=torch.float64)])
    expected = log_loss(batch.label[:12].numpy(), torch.sigmoid(LOGITS).numpy())
    assert bce(logits, batch, over="rows").item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("domains", [(0, 1, 2), (2,), (0, 2)])
def test_bce_over_domains_sums_each_domain_s_log_loss(domains: tuple[int, ...], padding: int) -> None:
    (batch,) = cut(make_batch(12, domains=domains), 1, padding=padding)
    logits = torch.cat([LOGITS, torch.full((padding,), 50.0, dtype=torch.float64)])
    expected = 0.0
    for k in domains:
        mine = (batch.domain[:12] == k).numpy()
        probabilities = torch.sigmoid(LOGITS).numpy()[mine]
        expected += log_loss(batch.label[:12].numpy()[mine], probabilities, labels=[0, 1])
    assert bce(logits, batch, over="domains").item() == pytest.approx(expected, rel=1e-12)


def test_l2_is_the_mean_squared_length_of_real_rows() -> None:
    (batch,) = cut(make_batch(3), 1, padding=1)
    one = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [100.0, 100.0]], dtype=torch.float64)
    two = torch.tensor([[1.0], [1.0], [2.0], [100.0]], dtype=torch.float64)
    assert l2([one, two], batch).item() == pytest.approx((5 + 0 + 9 + 1 + 1 + 4) / 3)


def test_bce_of_extreme_logits_is_finite() -> None:
    batch = make_batch(12)
    for over in ("domains", "rows"):
        assert np.isfinite(bce(LOGITS * 1e4, batch, over=over).item())


def test_the_contrast_of_chunks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradients against the whole matrix of cosines; the last chunk is a short one."""
    (batch,) = cut(make_batch(12), 1)
    one, two = torch.randn(2, 12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    one.requires_grad_(), two.requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(one[:, None], two[None], dim=2) / 0.1
    expected = -(cosine.log_softmax(0).diag().mean() + cosine.log_softmax(1).diag().mean()) / 2
    gradients = torch.autograd.grad(expected, (one, two))
    for chunk in (5, 256):
        monkeypatch.setattr(loss, "CHUNK", chunk)
        value = contrast(one, two, batch=batch, temperature=0.1)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value, (one, two)), gradients, rtol=1e-9, atol=1e-12)
