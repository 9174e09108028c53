"""Trains a small sparse network for a few steps: what an installed package must be able to do, wherever it is."""

import torch
from torch import nn

import sparse_ext as sx

torch.manual_seed(0)
model = sx.sparsify_(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), 0.9)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
sparsifier = sx.Sparsifier(model, optimizer, sx.RigL(update_interval=10), total_steps=60)
x, y = torch.randn(256, 64), torch.randint(10, (256,))
losses, changes = [], 0
for _ in range(60):
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    changes += sparsifier.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(loss.item())
assert losses[-1] < 0.8 * losses[0], losses
assert changes == 4, changes
print(f"smoke: loss {losses[0]:.3f} -> {losses[-1]:.3f}, {changes} pattern changes, from {sx.__file__}")
