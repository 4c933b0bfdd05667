from typing import Literal

import pytest
import torch

from mdr_dist.nn.sequence import last_entries


@pytest.mark.parametrize("zeros", ["before", "after"])
@pytest.mark.parametrize("length", [1, 3, 9])
def test_the_last_entries_of_each_list(zeros: Literal["before", "after"], length: int) -> None:
    lengths = torch.tensor([0, 4, 1, 0, 3, 7, 0])
    x = torch.arange(1.0, 31).view(15, 2).requires_grad_()
    found = last_entries(x, lengths, length=length, zeros=zeros)
    kept = torch.zeros(15, 2)
    for row, entries in enumerate(x.split(lengths.tolist())):
        want = entries[-length:] if len(entries) else entries
        nothing = torch.zeros(length - len(want), 2)
        assert torch.equal(found[row], torch.cat([nothing, want] if zeros == "before" else [want, nothing]))
        kept[sum(lengths[: row + 1]) - len(want) : sum(lengths[: row + 1])] = 1
    found.sum().backward()
    assert torch.equal(x.grad, kept)  # what was cut off gets nothing


def test_lists_that_are_all_empty() -> None:
    found = last_entries(torch.zeros(0, 2), torch.tensor([0, 0]), length=3, zeros="before")
    assert torch.equal(found, torch.zeros(2, 3, 2))
