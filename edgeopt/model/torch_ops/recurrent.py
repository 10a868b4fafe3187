"""RNN, GRU and LSTM, one time step after the other.

Gates, their order and the meaning of `layout` are those of the ONNX operators. Activations other than the
default ones, clipping and coupled gates are refused by their attribute's name when the graph is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgeopt.model.torch_ops.operator import Operator

__all__ = ["OPERATORS"]

Tensor = torch.Tensor
State = tuple[Tensor, ...]
Step = Callable[[int, Tensor, State], State]
"""(direction, x [batch, in], state) -> new state, whose first member is the output [batch, hidden]."""


def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activations: Sequence[str] = ("Tanh",),
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    outputs: int,
) -> Tensor | State:
    """w [directions, hidden, in], r [directions, hidden, hidden], b [directions, 2 * hidden]."""
    functions = [{"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[a.lower()] for a in activations]

    def step(d: int, x: Tensor, state: State) -> State:
        return (functions[d % len(functions)](_gates(x, state[0], w[d], r[d], _half(b, d, 0), _half(b, d, 1))),)

    return _recur(step, x, r, (initial_h,), sequence_lens, direction, layout, outputs)


def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int,
) -> Tensor | State:
    """Gates in the order update, reset, hidden: w [directions, 3 * hidden, in]."""
    size = r.shape[-1]

    def step(d: int, x: Tensor, state: State) -> State:
        (h,) = state
        of_x = torch.nn.functional.linear(x, w[d], _half(b, d, 0))
        bias = _half(b, d, 1)
        cut = 3 * size if linear_before_reset else 2 * size
        of_h = torch.nn.functional.linear(h, r[d, :cut], None if bias is None else bias[:cut])
        update, reset = torch.sigmoid(of_x[:, : 2 * size] + of_h[:, : 2 * size]).chunk(2, 1)
        if linear_before_reset:
            hidden = of_x[:, 2 * size :] + reset * of_h[:, 2 * size :]
        else:
            rest = None if bias is None else bias[2 * size :]
            hidden = of_x[:, 2 * size :] + torch.nn.functional.linear(reset * h, r[d, 2 * size :], rest)
        return ((1 - update) * torch.tanh(hidden) + update * h,)

    return _recur(step, x, r, (initial_h,), sequence_lens, direction, layout, outputs)


def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    outputs: int,
) -> Tensor | State:
    """Gates in the order input, output, forget, cell: w [directions, 4 * hidden, in]; p: peepholes (i, o, f)."""

    def step(d: int, x: Tensor, state: State) -> State:
        h, c = state
        i, o, f, g = _gates(x, h, w[d], r[d], _half(b, d, 0), _half(b, d, 1)).chunk(4, 1)
        peep_i, peep_o, peep_f = p[d].chunk(3) if p is not None else (None, None, None)
        i, f = torch.sigmoid(_peep(i, peep_i, c)), torch.sigmoid(_peep(f, peep_f, c))
        c = f * c + i * torch.tanh(g)
        return torch.sigmoid(_peep(o, peep_o, c)) * torch.tanh(c), c

    return _recur(step, x, r, (initial_h, initial_c), sequence_lens, direction, layout, outputs)


def _peep(gate: Tensor, peephole: Tensor | None, cell: Tensor) -> Tensor:
    return gate if peephole is None else gate + peephole * cell


def _gates(x: Tensor, h: Tensor, w: Tensor, r: Tensor, bx: Tensor | None, bh: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, w, bx) + torch.nn.functional.linear(h, r, bh)


def _half(b: Tensor | None, direction: int, which: int) -> Tensor | None:
    """The input's (0) or the recurrence's (1) bias of one direction."""
    return None if b is None else b[direction].chunk(2)[which]


def _recur(
    step: Step,
    x: Tensor,
    r: Tensor,
    initial: tuple[Tensor | None, ...],
    lengths: Tensor | None,
    direction: str,
    layout: int,
    outputs: int,
) -> Tensor | State:
    """Run every direction over time. `layout` 1 has the batch first, in x, in the states and in the results."""
    x = x.transpose(0, 1) if layout else x
    zeros = x.new_zeros(r.shape[0], x.shape[1], r.shape[-1])
    states = [zeros if s is None else s.transpose(0, 1) if layout else s for s in initial]
    sequences, finals = [], []
    for d in range(r.shape[0]):
        backwards = direction == "reverse" or d == 1
        sequence, final = _one_direction(step, d, x, tuple(s[d] for s in states), lengths, backwards)
        sequences.append(sequence)
        finals.append(final)
    last = [torch.stack(parts) for parts in zip(*finals, strict=True)]
    y = torch.stack(sequences, 1)  # [time, directions, batch, hidden]
    if layout:
        y, last = y.permute(2, 0, 1, 3), [s.transpose(0, 1) for s in last]
    return y if outputs == 1 else (y, *last)


def _one_direction(
    step: Step, d: int, x: Tensor, state: State, lengths: Tensor | None, backwards: bool
) -> tuple[Tensor, State]:
    """[time, batch, hidden] and the last state; past a sequence's own length the state stays, the output is 0."""
    times = range(len(x))
    sequence: list[Tensor] = [x] * len(x)
    for t in reversed(times) if backwards else times:
        new = step(d, x[t], state)
        if lengths is None:
            sequence[t], state = new[0], new
            continue
        alive = (t < lengths).unsqueeze(1)
        sequence[t] = torch.where(alive, new[0], torch.zeros_like(new[0]))
        state = tuple(torch.where(alive, n, old) for n, old in zip(new, state, strict=True))
    return torch.stack(sequence), state


OPERATORS: dict[str, Operator] = {
    "GRU": Operator(gru, wants=("outputs",)),
    "LSTM": Operator(lstm, wants=("outputs",)),
    "RNN": Operator(rnn, wants=("outputs",)),
}
