"""The random numbers of csrc/common/random.h."""

from __future__ import annotations

import torch


def philox4x32(seed: int, counter: torch.Tensor, high: int = 0) -> torch.Tensor:
    """The blocks of Philox4x32-10 of these counters, int64 [...], as int64 [..., 4]; high: the other half of all of them."""
    mask = 0xFFFFFFFF
    c = [counter & mask, counter >> 32 & mask, *(torch.full_like(counter, word & mask) for word in (high, high >> 32))]
    key = [seed & mask, (seed >> 32) & mask]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]  # int64 wraps, and the low 64 bits are what is wanted
        c = [((b >> 32) & mask) ^ c[1] ^ key[0], b & mask, ((a >> 32) & mask) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return torch.stack(c, -1)


def random_u32(seed: int, count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """The first `count` elements of the stream `seed`, as int64 [count]."""
    return philox4x32(seed, torch.arange((count + 3) // 4, device=device)).reshape(-1)[:count]
