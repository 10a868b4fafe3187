"""A small transformer encoder as BERT is built: three tables of embeddings, attention with a mask, GELU, a classifier.

Source: Devlin et al. 2019, arXiv:1810.04805; self-written, so that tests need no package of models.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

VOCABULARY, POSITIONS, KINDS = 500, 64, 2


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual and a LayerNorm after it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            layer(x).reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + mask).softmax(-1)
        x = self.norm1(x + self.output((weights @ v).transpose(1, 2).reshape(batch, length, width)))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """input_ids, attention_mask, token_type_ids, all int64 [batch, sequence] -> logits [batch, 4]."""

    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Embedding(POSITIONS, width)
        self.kinds = nn.Embedding(KINDS, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 4)
        ids = torch.randint(0, VOCABULARY, (2, 8))
        self.example_inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "token_type_ids": torch.zeros_like(ids),
        }
        self.dynamic_axes = {name: {0: "batch", 1: "sequence"} for name in self.example_inputs}

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.places(places) + self.kinds(token_type_ids))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        for layer in self.layers:
            x = layer(x, mask)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def encoder(seed: int = 0, width: int = 128, layers: int = 2) -> Encoder:
    """Seeded, with a few outlying channels in the LayerNorms, as trained encoders have."""
    torch.manual_seed(seed)
    module = Encoder(width, layers)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter[: width // 32] *= 6
    return module.eval()


def ids(count: int, length: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Text-free inputs: random ids, masks that end somewhere, two kinds of tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(length // 2, length + 1, (count, 1))
    return {
        "input_ids": random.integers(0, VOCABULARY, (count, length)),
        "attention_mask": (np.arange(length) < lengths).astype(np.int64),
        "token_type_ids": (np.arange(length) >= lengths // 2).astype(np.int64),
    }
