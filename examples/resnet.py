"""ResNet-18 and -50 (He et al. 2015, https://arxiv.org/abs/1512.03385), by torchvision's shapes and names.

python -m examples.resnet [--depth 50] [--sparsity 0.9]    shows what `sparsify_` makes of one, without memory for it
"""

from __future__ import annotations

import argparse
from typing import ClassVar

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers


def conv(channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Convolutions beside a shortcut. A subclass makes them in `_body`, to `expansion` times `width` channels."""

    expansion: ClassVar[int]

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self._body(channels, width, stride)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def _body(self, channels: int, width: int, stride: int) -> None:
        raise NotImplementedError

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.inner(x) + shortcut)


class BasicBlock(Block):
    expansion = 1

    def _body(self, channels: int, width: int, stride: int) -> None:
        self.conv1, self.bn1 = conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(Block):
    expansion = 4

    def _body(self, channels: int, width: int, stride: int) -> None:
        self.conv1, self.bn1 = conv(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, width * 4, 1), nn.BatchNorm2d(width * 4)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """Images [batch, 3, height, width] to [batch, classes].

    Args:
        block: BasicBlock or Bottleneck.
        blocks: how many of them in each of the four stages.
        width: channels of the first stage.
    """

    def __init__(self, block: type[Block], blocks: tuple[int, ...], width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, count in enumerate(blocks):
            parts = []
            for number in range(count):
                parts.append(block(channels, width << stage, 2 if stage and not number else 1))
                channels = (width << stage) * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(**options: int) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


def resnet50(**options: int) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--depth", type=int, choices=(18, 50), default=18)
    parser.add_argument("--sparsity", type=float, default=0.9)
    options = parser.parse_args()
    with torch.device("meta"):
        model = (resnet18 if options.depth == 18 else resnet50)()
        dense = sum(parameter.numel() for parameter in model.parameters())
        sx.sparsify_(model, options.sparsity)
    for name, layer in sparse_layers(model).items():
        print(f"{name:<24} {layer.nnz:>9} of {layer.mask().numel():>9} weights, {layer.density:>6.1%}")
    print(f"{sum(parameter.numel() for parameter in model.parameters())} of {dense} parameters")


if __name__ == "__main__":
    main()
