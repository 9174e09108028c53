"""MODELS: shapes of models that `python -m sparse_ext estimate` knows by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn


class Shape(Protocol):
    """Sizes of a model, as the fields of a dataclass, which are options of the command."""

    def build(self) -> tuple[nn.Module, Any]:
        """The model and a batch, on the default device."""


class Block(nn.Module):
    """Attention and a feed-forward layer of four times the width, each after a LayerNorm."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm1(x)
        q, k, v = (layer(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Blocks between an embedding, which gives [batch, length, width], and a dense head; positions are learned."""

    def __init__(
        self, embedding: nn.Module, width: int, depth: int, heads: int, length: int, outputs: int, causal: bool
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width that the heads divide, got width {width} and {heads} heads")
        self.embedding, self.positions = embedding, nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x) + self.positions.weight)))


class Patches(nn.Module):
    """Images [batch, 3, size, size] to [batch, patches, width]."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(x)
        return y.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class GPT:
    """A decoder-only transformer, by default of the sizes of GPT-2; its head has a weight of its own."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    vocabulary: int = 50257
    context: int = 1024
    batch: int = 8

    def build(self) -> tuple[nn.Module, Any]:
        embedding = nn.Embedding(self.vocabulary, self.width)
        sizes = self.width, self.depth, self.heads, self.context, self.vocabulary
        return Transformer(embedding, *sizes, causal=True), torch.zeros(self.batch, self.context, dtype=torch.int64)


@dataclass(frozen=True)
class ViT:
    """A vision transformer, by default of the sizes of ViT-B/16."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    image: int = 224
    patch: int = 16
    classes: int = 1000
    batch: int = 64

    def build(self) -> tuple[nn.Module, Any]:
        sizes = self.width, self.depth, self.heads, (self.image // self.patch) ** 2, self.classes
        model = Transformer(Patches(self.patch, self.width), *sizes, causal=False)
        return model, torch.zeros(self.batch, 3, self.image, self.image)


MODELS: dict[str, type[Any]] = {"gpt": GPT, "vit": ViT}
