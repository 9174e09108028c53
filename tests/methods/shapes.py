"""A GPT-2 and a ResNet in small: plain PyTorch, written as their authors would, who know of no sparse layer."""

import torch
from torch import nn

from examples.resnet import BasicBlock, ResNet

VOCABULARY, CONTEXT, WIDTH, HEADS, CLASSES = 16, 8, 32, 2, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, 2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.c_fc, self.act, self.c_proj = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU("tanh"), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.c_proj(self.act(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH), MLP()

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Tokens [batch, time] to logits. Embedding and head are one weight, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.ln_f = nn.Sequential(Block(), Block()), nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


def gpt():
    torch.manual_seed(0)
    return GPT()


def resnet():
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 1), width=8, classes=CLASSES)


def tokens():
    """Inputs and what comes next: a few sentences to learn by heart."""
    drawn = torch.randint(VOCABULARY, (8, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    return drawn[:, :-1], drawn[:, 1:]


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 8, 8, generator=generator), torch.randint(CLASSES, (12,), generator=generator)


# Of each: how it is made, what it learns, and what stays dense: GPT-2's embedding, and an image's first convolution.
SHAPES = {"gpt-2": (gpt, tokens, ["lm_head"]), "resnet": (resnet, images, ["conv1"])}
