"""Linear algebra."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgeopt.model.torch_ops.operator import Operator

__all__ = ["OPERATORS"]

Tensor = torch.Tensor


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha * a b + beta * c; a plain linear layer goes through torch's own."""
    a = a.t() if transA else a
    vector = c is None or (c.dim() == 1 and beta == 1.0)
    if alpha == 1.0 and vector and a.is_floating_point():
        return F.linear(a, b if transB else b.t(), c)
    y = torch.matmul(a, b.t() if transB else b)
    y = y if alpha == 1.0 else (alpha * y).to(y.dtype)
    return y if c is None else y + (c if beta == 1.0 else (beta * c).to(c.dtype))


def einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)


def det(x: Tensor) -> Tensor:
    return torch.det(x)


OPERATORS: dict[str, Operator] = {
    "Det": Operator(det),
    "Einsum": Operator(einsum),
    "Gemm": Operator(gemm),
    "MatMul": Operator(torch.matmul),
}
