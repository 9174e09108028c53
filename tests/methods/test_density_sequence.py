"""GMP, GraNet, AC/DC and EST-DGM equal a dense model under a mask, step by step: their definitions (methods.md) once more."""

import math

import pytest
import torch
from masked import MaskedTraining, compare, mask_of, ranked

import sparse_ext as sx

STEPS, INTERVAL = 60, 4


def smallest_of_all(run, counts):
    """{layer: mask} of the largest magnitudes of all layers, as many as these counts together; ties go to earlier layers."""
    everything = [(-abs(v), n, at) for n, name in enumerate(counts) for at, v in entries(run, name)]
    chosen = sorted(everything)[: sum(counts.values())]
    return {name: mask_of([at for _, layer, at in chosen if layer == n], run.masks[name]) for n, name in enumerate(counts)}


def entries(run, name):
    values = run.weight(name).flatten().tolist()
    return [(at, values[at]) for at in run.masks[name].flatten().nonzero().flatten().tolist()]


def largest(run, name, count):
    """The mask of the largest weights in use."""
    return mask_of(ranked(run.weight(name).abs(), run.masks[name])[:count], run.masks[name])


def cubic(step, start, end, first, last):
    return last if step >= end else last + (first - last) * (1 - (step - start) / (end - start)) ** 3


class Gmp(MaskedTraining):
    """From 15 to 45, dense until then."""

    scope = "layer"

    def update(self, step, gradients):
        if not (15 < step <= 45 and ((step - 15) % INTERVAL == 0 or step == 45)):
            return
        counts = {
            name: round(cubic(step, 15, 45, 1.0, self.targets[name] / mask.numel()) * mask.numel())
            for name, mask in self.masks.items()
        }
        if self.scope == "global":
            masks = smallest_of_all(self, counts)
        else:
            masks = {name: largest(self, name, count) for name, count in counts.items()}
        for name, mask in masks.items():
            self.change(name, mask)


class GlobalGmp(Gmp):
    scope = "global"


class GraNet(MaskedTraining):
    """The ramp from half of the positions goes on until 41; shares fall with a cosine until the end."""

    scope = "layer"

    def update(self, step, gradients):
        if step % INTERVAL and step != 41:
            return
        counts = {}
        for name, mask in self.masks.items():
            density = self.targets[name] / mask.numel()
            counts[name] = round(cubic(step, 0, 41, max(0.5, density), density) * mask.numel())
        share = 0.5 * (1 + math.cos(math.pi * step / STEPS)) / 2 if step < STEPS else 0.0
        before = {name: int(mask.sum()) for name, mask in self.masks.items()}
        if self.scope == "global":
            left = sum(counts.values()) / sum(before.values())
            masks = smallest_of_all(self, counts)
            grown = {name: min(math.floor(share * before[name] * left), int(masks[name].sum())) for name in counts}
            counts = {name: int(mask.sum()) for name, mask in masks.items()}
        else:
            grown = {name: math.floor(share * count) for name, count in counts.items()}
        for name, gradient in gradients.items():
            keep = largest(self, name, counts[name] - grown[name])
            self.change(name, keep | mask_of(ranked(gradient.abs(), ~keep)[: grown[name]], keep))


class GlobalGraNet(GraNet):
    scope = "global"


class AcDc(MaskedTraining):
    """Compressed from 6 on, then by turns every 4 steps; compressed for good from 46 on."""

    scope = "layer"

    def update(self, step, gradients):
        if step < 6 or (step - 6) % 4 or step > 46:
            return
        if (step - 6) // 4 % 2 == 0:
            chosen = smallest_of_all(self, self.targets) if self.scope == "global" else None
            for name, mask in self.masks.items():
                assert mask.all()
                self.change(name, chosen[name] if chosen else largest(self, name, self.targets[name]))
            return
        for name, mask in self.masks.items():
            self.change(name, torch.ones_like(mask))
            for moment in self.moments(self.weight(name)):
                moment.zero_()


class GlobalAcDc(AcDc):
    scope = "global"


class EstDgm(MaskedTraining):
    """Two cycles of 30 steps: 0.65 for 10, 0.25 for 10, then the layer's own; of the window's last 3 steps."""

    selection, n = "split", 3

    def score(self, name):
        window = torch.stack(self.seen[name][-self.n :])
        return window.abs().mean(0) ** 1.5 * (window.sign().sum(0).abs() / self.n) ** 0.5

    def update(self, step, gradients):
        self.seen = getattr(self, "seen", {name: [] for name in gradients})
        for name, gradient in gradients.items():
            self.seen[name].append(gradient)
        if step % 5 or step > 55:
            return
        for name, mask in self.masks.items():
            size = mask.numel()
            density = (0.65, 0.25, self.targets[name] / size)[step // 10 % 3] if step < 60 else self.targets[name] / size
            count = round(max(density, self.targets[name] / size) * size)
            q, weight, nnz = self.score(name), self.weight(name).abs(), int(mask.sum())
            if self.selection == "split":
                churn = math.floor(0.3 * (1 + math.cos(math.pi * step / 57)) / 2 * nnz) if nnz == count else 0
                keep = largest(self, name, min(nnz, count) - churn)
                self.change(name, keep | mask_of(ranked(q, ~keep)[: count - int(keep.sum())], keep))
                continue
            if self.selection == "blend":
                q = weight / weight[mask].mean() + 2.0 * q / q.mean()
            self.change(name, mask_of(ranked(q, torch.ones_like(mask))[:count], mask))


class Literal(EstDgm):
    selection = "literal"


class Blend(EstDgm):
    selection = "blend"


class OneStep(EstDgm):
    """RigL's cost: the candidates for growth alone are kept."""

    n = 1

    def score(self, name):
        return self.seen[name][-1].abs()


class LiteralOneStep(OneStep):
    selection = "literal"


EST = {"t_end": 0.95, "cycles": 2, "update_interval": 5, "magnitude_power": 1.5, "sign_power": 0.5, "blend": 2.0}
CASES = {
    "gmp": (sx.GMP(update_interval=INTERVAL), Gmp),
    "gmp global": (sx.GMP(update_interval=INTERVAL, scope="global"), GlobalGmp),
    "granet": (sx.GraNet(update_interval=INTERVAL), GraNet),
    "granet global": (sx.GraNet(update_interval=INTERVAL, scope="global"), GlobalGraNet),
    "ac/dc": (sx.ACDC(update_interval=4, t_end=0.8), AcDc),
    "ac/dc global": (sx.ACDC(update_interval=4, t_end=0.8, scope="global"), GlobalAcDc),
    "est-dgm split": (sx.ESTDGM(gradient_steps=3, **EST), EstDgm),
    "est-dgm literal": (sx.ESTDGM(gradient_steps=3, selection="literal", **EST), Literal),
    "est-dgm blend": (sx.ESTDGM(gradient_steps=3, selection="blend", **EST), Blend),
    "est-dgm one step": (sx.ESTDGM(**EST), OneStep),
    "est-dgm literal one step": (sx.ESTDGM(selection="literal", **EST), LiteralOneStep),
}


@pytest.mark.parametrize("layout", ["csr", "auto"])
@pytest.mark.parametrize(("network", "optimizer"), [("mlp", "sgd"), ("mlp", "adamw"), ("cnn", "sgd")])
@pytest.mark.parametrize("name", CASES)
def test_pattern_sequence_equals_a_masked_dense_model(name, network, optimizer, layout):
    method, definition = CASES[name]
    sparse, sparsifier, _, history = compare(
        method, definition, network=network, optimizer=optimizer, steps=STEPS, layout=layout
    )
    assert len(set(history)) >= (2 if "ac/dc" in name else 6)
    layers = [layer for layer in sparse.modules() if isinstance(layer, sx.nn.SparseLayer)]
    ends = [layer.target_nnz for layer in layers]
    assert sum(layer.nnz for layer in layers) == sum(ends)
    assert "global" in name or [layer.nnz for layer in layers] == ends
    if layout == "auto":
        assert any(row.layout == "auto" for row in sparsifier.report().layers)
