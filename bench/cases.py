"""What is measured, as data: shapes, sparsities, patterns. A row here is a row in every table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

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

    @property
    def row(self) -> dict[str, Any]:
        """As columns of a result."""
        return asdict(self)

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of x, dy and the weight."""
        x, dy = (self.tokens, self.in_features), (self.tokens, self.out_features)
        return x, dy, (self.out_features, self.in_features)

    def layer(self, dtype: torch.dtype) -> nn.Module:
        """The dense layer, without memory."""
        return nn.Linear(self.in_features, self.out_features, device="meta", dtype=dtype)

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def gradient(self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, of: str) -> torch.Tensor:
        """Of "input" or "weight"."""
        return dy @ weight if of == "input" else dy.t() @ x


@dataclass(frozen=True)
class Convolution:
    """One `nn.Conv2d` on a batch of square images, padded to keep their size but for the stride."""

    channels: int
    rows: int
    kernel: int
    size: int  # of an image, in pixels along each side
    batch: int
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        window = f"{self.kernel} x {self.kernel}" + (f" stride {self.stride}" if self.stride > 1 else "")
        return f"{self.channels} -> {self.rows}, {window}, {self.batch} x {self.size} x {self.size}"

    @property
    def in_features(self) -> int:
        """Columns of the weight as a matrix."""
        return self.channels // self.groups * self.kernel**2

    @property
    def out_features(self) -> int:
        return self.rows

    @property
    def tokens(self) -> int:
        """Pixels of the output."""
        return self.batch * self.out_size**2

    @property
    def out_size(self) -> int:
        return (self.size - 1) // self.stride + 1

    @property
    def row(self) -> dict[str, Any]:
        """As of `Shape`."""
        matrix = {"in_features": self.in_features, "out_features": self.out_features, "tokens": self.tokens}
        return {**matrix, **asdict(self)}

    @property
    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """As of `Shape`."""
        x, dy = (self.batch, self.channels, self.size, self.size), (self.batch, self.rows, self.out_size, self.out_size)
        return x, dy, (self.rows, self.channels // self.groups, self.kernel, self.kernel)

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Stride, padding, dilation and groups, as `F.conv2d` takes them."""
        return self.stride, self.kernel // 2, 1, self.groups

    def layer(self, dtype: torch.dtype) -> nn.Module:
        return nn.Conv2d(self.channels, self.rows, self.kernel, *self.window, device="meta", dtype=dtype)

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, bias, *self.window)

    def gradient(self, dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, of: str) -> torch.Tensor:
        stride, padding, dilation, groups = self.window
        how = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups)
        wanted = [of == "input", of == "weight", False]
        grads: list[torch.Tensor] = torch.ops.aten.convolution_backward(dy, x, weight, None, *how, wanted)
        return grads[wanted.index(True)]


def resnet50(batch: int) -> dict[str, tuple[Convolution, ...]]:
    """The convolutions of a ResNet-50 (He et al. 2015, table 1; stride in the 3 x 3) for images of 224 pixels, by class."""
    wide = ((56, 64), (28, 128), (14, 256), (7, 512))  # pixels and channels of each stage
    one = [Convolution(64, 64, 1, 56, batch)]
    for (size, channels), (before, narrow) in zip(wide, ((56, 64), *wide[:-1]), strict=True):
        if size != before:
            one.append(Convolution(4 * narrow, channels, 1, before, batch))
        one += [Convolution(channels, 4 * channels, 1, size, batch), Convolution(4 * channels, channels, 1, size, batch)]
    steps = list(pairwise(wide))
    return {
        "stem": (Convolution(3, 64, 7, 224, batch, 2),),
        "1x1": tuple(one),
        "3x3": tuple(Convolution(channels, channels, 3, size, batch) for size, channels in wide),
        "1x1 stride 2": tuple(Convolution(4 * a, 4 * b, 1, size, batch, 2) for (size, a), (_, b) in steps),
        "3x3 stride 2": tuple(Convolution(b, b, 3, size, batch, 2) for (size, _), (_, b) in steps),
    }


def resnet18(batch: int) -> tuple[tuple[Convolution, int], ...]:
    """Every convolution of a ResNet-18 for images of 224 pixels, and how often it is there."""
    found = [(Convolution(3, 64, 7, 224, batch, 2), 1), (Convolution(64, 64, 3, 56, batch), 4)]
    for size, channels in ((56, 64), (28, 128), (14, 256)):
        found += [
            (Convolution(channels, 2 * channels, 3, size, batch, 2), 1),
            (Convolution(channels, 2 * channels, 1, size, batch, 2), 1),
            (Convolution(2 * channels, 2 * channels, 3, size // 2, batch), 3),
        ]
    return tuple(found)


SUITES: dict[str, tuple[Shape | Convolution, ...]] = {
    "layer": (Shape(1024, 1024, 256), Shape(1024, 4096, 1024)),
    "square": (Shape(512, 512, 256), Shape(1024, 1024, 1024), Shape(2048, 2048, 1024), Shape(4096, 4096, 512)),
    # The 1 x 1 convolutions of a ResNet-50 for 8 images, as products with a token for each pixel.
    "pixels": (Shape(256, 64, 25088), Shape(512, 128, 6272), Shape(1024, 256, 1568), Shape(512, 2048, 392)),
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
    "smoke": (Shape(96, 64, 40), Convolution(8, 16, 3, 9, 2)),
    **{f"resnet50 {name}": shapes for name, shapes in resnet50(16).items()},
    "resnet18": tuple(shape for shape, _ in resnet18(64)),
    # Depthwise and 1 x 1 of a MobileNet (Howard et al. 2017, table 1).
    "mobilenet": (
        *(Convolution(c, c, 3, size, 16, stride, c) for c, size, stride in ((64, 112, 2), (128, 56, 1), (512, 14, 1))),
        *(Convolution(c, 2 * c, 1, size, 16) for c, size in ((64, 56), (128, 28), (256, 14))),
    ),
    "gpu conv": tuple(shape for name in ("3x3", "3x3 stride 2", "1x1 stride 2") for shape in resnet50(64)[name]),
    "gpu 1x1": resnet50(64)["1x1"],
}
SUITES["resnet50"] = tuple(shape for shapes in resnet50(16).values() for shape in shapes)
SUITES["models"] = tuple(shape for name in ("pixels", "vit-b16", "gpt2", "llama-7b") for shape in SUITES[name])


@dataclass(frozen=True)
class Case:
    """One layer at one sparsity."""

    shape: Shape | Convolution
    sparsity: float
    pattern: str
    dtype: torch.dtype
    device: str

    @property
    def row(self) -> dict[str, Any]:
        """As columns of a result."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {**self.shape.row, "sparsity": self.sparsity, "pattern": self.pattern, "dtype": dtype, "device": self.device}

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
