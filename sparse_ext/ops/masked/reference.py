"""The twins of the masked operators: a boolean mask, and PyTorch's products."""

from __future__ import annotations

import torch


def masked_select(values, bits):
    places = torch.arange(values.numel())
    stored = (bits[places // 8] >> (places % 8).to(torch.uint8)) & 1
    return torch.where(stored.view(values.shape).bool(), values, torch.zeros((), dtype=values.dtype))


def masked_spmm(weight, bits, rows, x, bias, relu=False):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = x.to(wide) @ masked_select(weight, bits).view(rows, x.shape[1]).to(wide).t()
    y = y if bias is None else y + bias.to(wide)
    return (y.relu() if relu else y).to(x.dtype)


def masked_spmm_t(weight, bits, cols, dy):
    wide = torch.float64 if dy.dtype == torch.float64 else torch.float32
    return (dy.to(wide) @ masked_select(weight, bits).view(dy.shape[1], cols).to(wide)).to(dy.dtype)


def masked_sddmm(bits, dy, x):
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return masked_select((dy.to(wide).t() @ x.to(wide)).view(-1), bits).to(x.dtype)
