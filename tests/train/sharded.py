"""The scenarios of ranks.py in which FSDP splits the parameters among the ranks."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training import OPTIMIZERS, backward, everything, mlp, trainer

import sparse_ext as sx
from sparse_ext.nn import sparse_layers


def sharded(model):
    mesh = init_device_mesh("cpu", (2,))
    for layer in sparse_layers(model).values():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp_static(rank):
    """Both ranks see the same batch, so the mean gradient is exact: the unsharded run, bit for bit."""
    results = []
    for wrap in (lambda model: model, sharded):
        model = wrap(mlp())
        assert (type(model[0].weight.data).__name__ == "DTensor") == (wrap is sharded)
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        sparsifier = sx.Sparsifier(model, optimizer, sx.Static(), total_steps=100)
        for step in range(1, 8):
            backward(model, step)
            optimizer.step()
            assert not sparsifier.step()
            optimizer.zero_grad()
        values = everything(model, optimizer)
        results.append({k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in values.items()})
        sizes = {name: layer.weight.data for name, layer in sparse_layers(model).items()}
    local = sizes["0"].to_local().numel()
    return results, local, str(sparsifier.report())


def fsdp_rigl(rank):
    model = sharded(mlp())
    trainer(model)


def fsdp_set(rank):
    model = sharded(mlp())
    trainer(model, "set")


def fsdp_afterwards(rank):
    """Sharded behind the Sparsifier's back; its optimizer still holds the old parameters."""
    model = mlp()
    _, sparsifier = trainer(model, "set")
    sharded(model)
    for _ in range(10):
        sparsifier.step()


def fsdp_from_meta(rank):
    """Each rank has another seed, as where every rank draws its own batches."""
    found = []
    for how in ("to_empty", "reset_parameters"):
        with torch.device("meta"):
            layer = sx.SparseLinear(16, 8, capacity=0.5)
        model = fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
        torch.manual_seed(rank)
        model.to_empty(device="cpu")
        if how == "reset_parameters":
            model.reset_parameters()
        else:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
        found.append((model.mask(), model(torch.ones(1, 16)).detach(), model.nnz))
    return found


SCENARIOS = (fsdp_static, fsdp_rigl, fsdp_set, fsdp_afterwards, fsdp_from_meta)
