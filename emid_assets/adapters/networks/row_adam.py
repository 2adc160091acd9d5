"""Adam for tables of which a batch reads few rows: only those rows are updated."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class RowAdam(Optimizer):
    """AdamW (Loshchilov, Hutter 2019, arXiv 1711.05101) row by row, for parameters with sparse gradients.

    A row that a batch does not read keeps its values, its moments and its step count, so the cost of a
    step depends on the rows read, not on the length of the table. If every step reads every row, it is
    AdamW.
    """

    def __init__(self, tables: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(tables, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._move(table, table.grad.coalesce(), group["lr"], group["weight_decay"])

    def _move(self, table: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[table]
        if not state:
            state["steps"] = torch.zeros(len(table), 1, device=table.device)
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
        rows, values = gradient.indices()[0], gradient.values()
        steps = state["steps"][rows] + 1
        mean = state["mean"].index_select(0, rows).lerp_(values, 1 - BETAS[0])
        square = state["square"].index_select(0, rows).mul_(BETAS[1])
        square.addcmul_(values, values, value=1 - BETAS[1])
        state["steps"][rows], state["mean"][rows], state["square"][rows] = steps, mean, square
        scale = (square / (1 - BETAS[1] ** steps)).sqrt_().add_(EPSILON)
        moved = table.index_select(0, rows).mul_(1 - lr * weight_decay)
        table[rows] = moved.addcdiv_(mean / (1 - BETAS[0] ** steps), scale, value=-lr)


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> float:
    """Scale all gradients, dense and sparse, to a total norm of at most `largest`; return the norm before."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)
