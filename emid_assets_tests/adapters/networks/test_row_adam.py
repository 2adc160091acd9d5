"""Adam by rows against torch's own AdamW."""

import pytest
import torch
from torch import nn

from emid_assets.adapters.networks.row_adam import RowAdam, clip_gradients

LR, DECAY = 0.05, 0.1


def tables() -> tuple[nn.Embedding, nn.Embedding]:
    torch.manual_seed(0)
    sparse, dense = nn.Embedding(6, 3, sparse=True), nn.Embedding(6, 3)
    dense.load_state_dict(sparse.state_dict())
    return sparse, dense


def loss(table: nn.Embedding, rows: list[int], step: int) -> torch.Tensor:
    return ((table(torch.tensor(rows)) - step) ** 2 * torch.arange(1.0, 4.0)).sum()


def test_where_every_row_is_read_each_time_it_is_adamw() -> None:
    sparse, dense = tables()
    ours = RowAdam([sparse.weight], LR, DECAY)
    theirs = torch.optim.AdamW(dense.parameters(), lr=LR, weight_decay=DECAY)
    for step in range(7):
        for table, optimizer in ((sparse, ours), (dense, theirs)):
            optimizer.zero_grad()
            loss(table, [5, 1, 0, 2, 4, 3, 1], step).backward()
            optimizer.step()
    torch.testing.assert_close(sparse.weight, dense.weight)


def test_a_row_moves_only_when_it_is_read_and_as_if_the_others_were_not_there() -> None:
    sparse, dense = tables()
    before = sparse.weight.detach().clone()
    ours = RowAdam([sparse.weight], LR, DECAY)
    alone = nn.Parameter(dense.weight[2].detach().clone())
    theirs = torch.optim.AdamW([alone], lr=LR, weight_decay=DECAY)
    for step, rows in enumerate([[2, 4], [1], [2], [4, 1], [2]]):
        ours.zero_grad()
        loss(sparse, rows, step).backward()
        ours.step()
        if 2 in rows:
            theirs.zero_grad()
            ((alone - step) ** 2 * torch.arange(1.0, 4.0)).sum().backward()
            theirs.step()
    torch.testing.assert_close(sparse.weight[2], alone)
    torch.testing.assert_close(sparse.weight[[0, 3, 5]], before[[0, 3, 5]])
    assert not torch.isclose(sparse.weight[[1, 4]], before[[1, 4]]).any()


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_sparse_and_dense_gradients_share_one_norm(largest: float) -> None:
    sparse, dense = tables()
    beside = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    for table, other in zip((sparse, dense), beside, strict=True):
        (loss(table, [1, 2, 2], 3) + (other**2).sum()).backward()
    norm = clip_gradients([sparse.weight, beside[0]], largest)
    expected = torch.nn.utils.clip_grad_norm_([dense.weight, beside[1]], largest)
    assert norm == pytest.approx(float(expected))
    torch.testing.assert_close(sparse.weight.grad.to_dense(), dense.weight.grad)
    torch.testing.assert_close(beside[0].grad, beside[1].grad)
