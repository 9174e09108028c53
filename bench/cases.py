"""What is measured, as data: shapes, sparsities, patterns. A row here is a row in every table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
PATTERNS = ("uniform", "skewed")


@dataclass(frozen=True)
class Shape:
    """One layer on one batch: [tokens, in_features] -> [tokens, out_features]."""

    in_features: int
    out_features: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.in_features} -> {self.out_features}, {self.tokens} tokens"


SUITES: dict[str, tuple[Shape, ...]] = {
    "layer": (Shape(1024, 1024, 256), Shape(1024, 4096, 1024)),
    "square": (Shape(512, 512, 256), Shape(1024, 1024, 1024), Shape(2048, 2048, 1024), Shape(4096, 4096, 512)),
    # The 1 x 1 convolutions of a batch of 8 images, a token per pixel (He et al. 2015, table 1).
    "resnet50": (Shape(256, 64, 25088), Shape(512, 128, 6272), Shape(1024, 256, 1568), Shape(512, 2048, 392)),
    # Four images of 197 tokens (Dosovitskiy et al. 2020, table 1), and four sequences of 256.
    "vit-b16": (Shape(768, 768, 788), Shape(768, 3072, 788), Shape(3072, 768, 788)),
    "gpt2": (Shape(768, 2304, 1024), Shape(768, 3072, 1024), Shape(3072, 768, 1024)),
    "llama-7b": (Shape(4096, 4096, 256), Shape(4096, 11008, 256), Shape(11008, 4096, 256)),
    # Few tokens and many, for the crossovers of layout="auto".
    "tokens": (
        *(Shape(2048, 2048, tokens) for tokens in (16, 64, 256)),
        *(Shape(1024, 1024, tokens) for tokens in (256, 1024)),
        Shape(768, 3072, 512),
        Shape(4096, 1024, 128),
    ),
    "gpu": (Shape(1024, 1024, 8192), Shape(4096, 4096, 8192), Shape(4096, 11008, 8192)),
    "smoke": (Shape(96, 64, 40),),
}
SUITES["models"] = tuple(shape for name in ("resnet50", "vit-b16", "gpt2", "llama-7b") for shape in SUITES[name])


@dataclass(frozen=True)
class Case:
    """One layer at one sparsity."""

    shape: Shape
    sparsity: float
    pattern: str
    dtype: torch.dtype
    device: str

    @property
    def row(self) -> dict[str, Any]:
        """As columns of a result."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {**asdict(self.shape), "sparsity": self.sparsity, "pattern": self.pattern, "dtype": dtype, "device": self.device}

    def mask(self) -> torch.Tensor:
        """Boolean [out_features, in_features] with the exact number of ones, the same for all contenders.

        "uniform": any position alike. "skewed": rows have very different counts, as after magnitude pruning.
        """
        rows, cols = self.shape.out_features, self.shape.in_features
        generator = torch.Generator(self.device).manual_seed(0)
        score = torch.rand(rows, cols, generator=generator, device=self.device)
        if self.pattern == "skewed":  # weighted sampling without replacement
            score = score.log() / torch.randn(rows, 1, generator=generator, device=self.device).exp()
        mask = torch.zeros(rows * cols, dtype=torch.bool, device=self.device)
        mask[score.flatten().topk(round((1 - self.sparsity) * rows * cols)).indices] = True
        return mask.view(rows, cols)
