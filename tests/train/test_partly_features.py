"""Frozen parts beside everything else: FLOPs, AMP, activation checkpointing, compiled code."""

import pytest
import torch
from frozen_parts import BY, CLASSES, IN, LAYOUTS, check_frozen, frozen, network, snapshot, trainer
from torch import nn
from torch.utils.checkpoint import checkpoint
from training import assert_same, run

import sparse_ext as sx

STEP = 4  # of the first update


def wide(conv=False):
    """Three layers of equal cost; the first needs no input gradient."""
    torch.manual_seed(0)
    if conv:
        return nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))), torch.randn(2, 8, 5, 5)
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(3))), torch.randn(16, 64)


def flops(model, x):
    model.zero_grad()
    return sx.count_flops(lambda: model(x).square().sum().backward())


def frozen_at_first(model, x, **choices):
    """The model after its first update, and its Sparsifier."""
    optimizer, sparsifier = trainer(model, "sgd", update_interval=1, **choices)
    model(x).square().mean().backward()
    optimizer.step()
    sparsifier.step()
    return sparsifier


def freeze_now(sparsifier):
    """The next step does not score."""
    for managed in sparsifier._layers:
        managed.part.arm(None, False)


@pytest.mark.parametrize("active", [0.25, 0.38])
@pytest.mark.parametrize("by", ["element", "row"])
@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_weight_gradients_cost_their_share(conv, by, active):
    model, x = wide(conv)
    whole = flops(model, x)
    product = whole / 8  # three forward products and weight gradients, two input gradients
    sparsifier = frozen_at_first(model, x, granularity=by, active=active)
    assert flops(model, x) == whole  # the next step scores, as every step does here
    freeze_now(sparsifier)
    share = (flops(model, x) - 5 * product) / (3 * product)
    trained = sum(row.trained for row in sparsifier.report().layers) / 3
    assert share == pytest.approx(trained, abs=1e-9)
    assert trained == pytest.approx(active, abs=0.02 if by == "element" or not conv else 1 / 16)


@pytest.mark.parametrize("layout", ["csr", "masked", "2:4"])
def test_weight_gradients_of_sparse_layers_cost_their_share(layout):
    model, x = wide()
    sx.sparsify_(model, 0.5, layout=layout, distribution="uniform", init="masked")
    stored = sum(layer.nnz for layer in model) / 4096
    sparsifier = frozen_at_first(model, x, granularity="element", active=0.3)
    whole = flops(model, x)
    freeze_now(sparsifier)
    of_whole = stored if layout == "csr" else 3  # the others compute the dense gradient
    assert whole - flops(model, x) == pytest.approx((of_whole - 0.3 * stored) * 2 * 16 * 4096, rel=0.02)


def test_a_frozen_prefix_computes_no_input_gradients():
    model, x = wide()
    product = flops(model, x) / 8
    sparsifier = frozen_at_first(model, x, granularity="layer", active=1 / 3)
    for managed in sparsifier._layers:
        managed.part.trained = torch.tensor([managed.name == "2"])
        managed.layer.train_all_()
    freeze_now(sparsifier)
    assert flops(model, x) == 4 * product  # three forward products and a weight gradient
    assert model[0].weight.grad is None
    assert model[0].bias.grad is None
    assert sparsifier.report().layers[0].trained == 0


def test_the_hand_case():
    """|w g| = 8 6 4 2 | 1 2 3 4; a quarter trains, and what trains is favoured: 1.5 times against 1 / 1.5 (h = 0.2)."""
    layer = nn.Linear(4, 2, bias=False)
    model = nn.Sequential(layer)
    layer.weight.data = torch.ones(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sx.Sparsifier(
        model, optimizer, sx.SAT(active=0.25, update_interval=1, smoothing=0.0, hysteresis=0.2), total_steps=9
    )

    def trained_after(gradient):
        (model(torch.eye(4)) * torch.tensor(gradient).t()).sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        return sparsifier._layers[0].part.trained.nonzero().flatten().tolist()

    assert trained_after([[8.0, 6, 4, 2], [1, 2, 3, 4]]) == [0, 1]
    assert trained_after([[4.0, 6, 5, 2], [1, 2, 3, 4]]) == [0, 1]  # 4 / 0.8 = 5 > 5 / 1.2
    assert trained_after([[3.0, 6, 5, 2], [1, 2, 3, 4]]) == [1, 2]  # 3 / 0.8 = 3.75 < 5 / 1.2 = 4.17
    assert trained_after([[1.0, 1, 1, 1], [1, 1, 1, 1]]) == [1, 2]
    assert trained_after([[-9.0, 0, 0, 0], [0, 0, 0, 9]]) == [0, 7]


# ---- training as people do it ---------------------------------------------------------------------------------------


def images_and_labels(step, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, IN, generator=generator).to(dtype), torch.randint(CLASSES, (8,), generator=generator)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_autocast(layout, by):
    model = network(layout)
    optimizer, sparsifier = trainer(model, "adamw", granularity=by)
    for step in range(1, 8):
        if step == STEP + 1:
            before = snapshot(optimizer, sparsifier)
        x, y = images_and_labels(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    check_frozen(optimizer, sparsifier, before)


@pytest.mark.parametrize("kind", ["sgd", "adamw_fused"])
def test_a_scaler_that_skips_the_scoring_step(kind):
    """The step is scored again one later, by gradients without the scale."""
    results = []
    for scale in (1.0, 1024.0):
        model = network(dtype=torch.float64)
        optimizer, sparsifier = trainer(model, kind)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=True)
        for step in range(1, 8):
            x, y = images_and_labels(step, torch.float64)
            loss = nn.functional.cross_entropy(model(x), y) * (torch.inf if step == STEP else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update(scale)
            sparsifier.step()
            assert sparsifier.report().updates == int(step > STEP)
            optimizer.zero_grad()
        results.append([managed.part.importance for managed in sparsifier._layers])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_scores_once(use_reentrant, by):
    plain, other = network(), network()
    trios = [(model, *trainer(model, "adamw", granularity=by)) for model in (plain, other)]
    for step in range(1, 9):
        for model, optimizer, sparsifier in trios:
            x, y = images_and_labels(step)
            x.requires_grad_()  # as reentrant checkpointing asks for
            h = checkpoint(model[:4], x, use_reentrant=use_reentrant) if model is other else model[:4](x)
            nn.functional.cross_entropy(model[4](h), y).backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
        assert_same(dict(other.state_dict()), dict(plain.state_dict()))
    for one, two in zip(trios[0][2]._layers, trios[1][2]._layers, strict=True):
        assert torch.equal(one.part.importance, two.part.importance)


@pytest.mark.parametrize(("layout", "by"), [("plain", "element"), ("plain", "layer"), ("csr", "row"), ("csr", "layer")])
def test_compiled_code_needs_few_programs(layout, by):
    torch._dynamo.reset()
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    eager, twin = network(layout, torch.float64), network(layout, torch.float64)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    trios = [
        (model, *trainer(one, "sgd", granularity=by, update_interval=2)) for one, model in ((eager, eager), (twin, compiled))
    ]
    sets = set()
    for step in range(1, 25):
        for model, optimizer, sparsifier in trios:
            x, y = images_and_labels(step, torch.float64)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
            for number, managed in enumerate(sparsifier._layers if by == "layer" and step % 2 == 0 else ()):
                managed.part.trained = torch.tensor([bool(1 + step // 2 % 7 >> number & 1)])  # each set of layers
                managed.layer.train_all_()
                managed.part.arm_again()
        sets.add(str([managed.part.trained for managed in trios[0][2]._layers]))
        for one, two in zip(eager.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, two)
    assert len(sets) > 2
    assert len(programs) <= 4


def test_second_derivatives_of_what_trains_are_right():
    model = network(dtype=torch.float64)
    optimizer, sparsifier = trainer(model, granularity="row")
    run(model, optimizer, sparsifier, range(1, 6))
    x, y = images_and_labels(1, torch.float64)
    results = []
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        sum(g.square().sum() for g in gradients).backward()
        trained = [~frozen(managed) for managed in sparsifier._layers]
        results.append([m.layer.weight.grad[at] for m, at in zip(sparsifier._layers, trained, strict=True)])
        model.zero_grad()
        for managed in sparsifier._layers:
            managed.layer.train_all_()
    torch.testing.assert_close(*results)
