"""Every method trains a GPT-2-shaped and a ResNet-shaped model for 50 steps; no line of the models knows of it."""

import copy
from dataclasses import fields

import pytest
import torch
from sampling import others_slow
from shapes import SHAPES
from torch import nn
from training import method_named

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

STEPS, SPARSITY = 50, 0.8


def quick(name):
    """The method with updates every few steps: fields that count the steps between them have such names."""
    intervals = [field.name for field in fields(sx.METHODS[name]) if field.name.endswith(("interval", "_every"))]
    return method_named(name, **dict.fromkeys(intervals, 5))


def prepared(model, method, exclude):
    """The model as this method trains it: as it is, or with sparse layers of the first layout that the method takes."""
    if getattr(method, "trains_dense_layers", False):
        return model
    for layout, sparsity in (("csr", SPARSITY), ("2:4", None)):
        converted = copy.deepcopy(model)
        try:
            sx.sparsify_(converted, sparsity, distribution="uniform", layout=layout, method=method, exclude=exclude)
            sx.Sparsifier(converted, torch.optim.SGD(converted.parameters(), lr=0.1), method, total_steps=STEPS)
        except ValueError as error:
            refused = error
        else:
            return converted
    raise refused


def trained(model, optimizer, sparsifier, batch):
    """The loss of every step."""
    x, y = batch
    losses = []
    for _ in range(STEPS):
        loss = nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sparsifier.step()
        losses.append(float(loss.detach()))
    return losses


def check_end(layers, method):
    """Exactly as many weights are in use as were asked for, all layers together."""
    if isinstance(method, sx.FST):  # ends with a dense tail
        assert {layer.density for layer in layers} == {1.0}
        return
    wanted = 0.5 if layers[0].layout == "2:4" else 1 - SPARSITY
    sizes = [layer.product.rows * layer.product.cols for layer in layers]
    assert [layer.target_nnz for layer in layers] == [round(wanted * size) for size in sizes]
    # Rows of equally many weights round: by so much a row.
    spare = getattr(method, "spare_per_row", 0) * sum(layer.product.rows for layer in layers)
    assert abs(sum(layer.nnz - layer.target_nnz for layer in layers)) <= spare


def check_memory(layers, method, optimizer):
    """Of each layer as much as the method's densest phase needs, in weight, gradient and moments alike."""
    for layer in layers:
        size, state = layer.product.rows * layer.product.cols, optimizer.state[layer.weight]
        made_for = layer.target_nnz / size
        densest = max(made_for, method.initial_density(made_for), method.max_density(made_for))
        if layer.layout != "2:4":
            spare = getattr(method, "spare_per_row", 0) * layer.product.rows
            room = size if method.dense_weight else round(densest * size)
            assert room <= layer.capacity <= room + spare + bool(spare)
        tensors = [layer.weight, layer.weight.grad, state["exp_avg"], state["exp_avg_sq"]]
        assert [tensor.numel() for tensor in tensors] == 4 * [layer.capacity]


@pytest.mark.parametrize(("name", "shape"), others_slow([(name, shape) for name in sx.METHODS for shape in SHAPES]))
def test_a_model_trains_without_a_line_changed(name, shape):
    make, batch, exclude = SHAPES[shape]
    model, method = make(), quick(name)
    modules = {at: type(module) for at, module in model.named_modules()}
    model = prepared(model, method, exclude)
    converted = sparse_layers(model)
    assert {at: type(one) for at, one in model.named_modules() if at not in converted} == {
        at: kind for at, kind in modules.items() if at not in converted
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=STEPS)
    losses = trained(model, optimizer, sparsifier, batch())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert sparsifier.report().updates >= 3 or not method.changes_patterns
    if converted:
        check_end(list(converted.values()), method)
        check_memory(converted.values(), method, optimizer)


def test_two_parts_by_two_methods():
    """Each part ends as its method says, and only what its own schedule orders changes it."""
    model, batch, exclude = SHAPES["gpt-2"][0](), SHAPES["gpt-2"][1](), SHAPES["gpt-2"][2]
    parts = {"blocks.0.*": quick("thinning"), "*.mlp.*": quick("rigl"), "*": quick("set")}
    sx.sparsify_(model, SPARSITY, layout="csr", distribution="uniform", method=parts, exclude=exclude)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    sparsifier = sx.Sparsifier(model, optimizer, parts, total_steps=STEPS)
    layers = sparse_layers(model)
    thinned = [name for name in layers if name.startswith("blocks.0")]
    assert len(thinned) == 4
    assert all((layer.nnz > layer.target_nnz) == (name in thinned) for name, layer in layers.items())
    losses = trained(model, optimizer, sparsifier, batch)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert all(layer.nnz == layer.target_nnz for layer in layers.values())
    assert all(row.replaced > 0 for row in sparsifier.report().layers)
