"""Run by test_peak_memory.py in a process of its own: one training step of a 3 x 3 convolution, and how much memory it takes.

python peak_memory.py KIND FILE    KIND: "dense", or a layout
"""

import resource
import sys
from pathlib import Path

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import layout_named, operands_of

CHANNELS, PIXELS, BATCH = 256, 56, 16


def peak() -> int:
    """Bytes: the most that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def packed_bytes(layer) -> int:
    """Of the pattern and of what kernels read of it, each tensor once."""
    tensors = [*layer.buffers(), *operands_of(layout_named(layer.layout), layer.pattern)]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def taken(kind: str, channels: int, pixels: int, batch: int) -> tuple[int, int]:
    """Bytes of a step beside layer, input and output gradient, which are there before; and bytes of the packed operands."""
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    if kind != "dense":
        layer = sx.SparseConv2d.from_dense(layer, sparsity=0.9, layout=kind)
    x, dy = (torch.randn(batch, channels, pixels, pixels, requires_grad=leaf) for leaf in (True, False))
    before = peak()
    layer(x).backward(dy)
    return peak() - before, 0 if kind == "dense" else packed_bytes(layer)


def main(kind: str, file: Path) -> None:
    torch.set_num_threads(1)
    taken(kind, 16, 8, 2)  # what a first call loads
    file.write_text(" ".join(map(str, taken(kind, CHANNELS, PIXELS, BATCH))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
