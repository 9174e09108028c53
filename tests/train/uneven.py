"""Scenarios of ranks.py in which ranks take different numbers of steps, or train in groups."""

from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel as DDP
from training import OPTIMIZERS, backward, mlp, patterns, trainer

import sparse_ext as sx


def steps_in_join(rank, method, **how):
    """Rank 1 has a batch less; how many steps each took, and the error, if it comes of join itself."""
    model = DDP(mlp())
    optimizer, sparsifier = trainer(model, method)
    taken = 0
    try:
        with model.join(**how):
            for step in range(1, 6 - rank):
                backward(model, step)
                optimizer.step()
                sparsifier.step()
                optimizer.zero_grad()
                taken += 1
    except RuntimeError as error:
        if "exhausted" not in str(error):
            raise
    return taken, patterns(model)


def join_with_growth(rank):
    steps_in_join(rank, "rigl")


def join_with_random_growth(rank):
    steps_in_join(rank, "set")


def join_with_a_static_pattern(rank):
    return steps_in_join(rank, "static")[0]


def join_that_ends_together(rank):
    return steps_in_join(rank, "rigl", throw_on_early_termination=True)


def a_mesh_names_the_ranks(rank):
    model = DDP(mlp())
    optimizer, sparsifier = trainer(model, process_group=init_device_mesh("cpu", (2,)))
    for step in range(1, 5):
        backward(model, step + 100 * rank)
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
    return patterns(model)


def a_mesh_of_two_dimensions(rank):
    trainer(DDP(mlp()), process_group=init_device_mesh("cpu", (1, 2), mesh_dim_names=("tp", "dp")))


def post_local_sgd(rank):
    model = DDP(mlp())
    optimizer = PostLocalSGDOptimizer(OPTIMIZERS["sgd"](model.parameters()), PeriodicModelAverager(period=2, warmup_steps=0))
    sx.Sparsifier(model, optimizer, sx.Static(), total_steps=9)
    sx.Sparsifier(model, optimizer, sx.SET(), total_steps=9)


SCENARIOS = (
    join_with_growth, join_with_random_growth, join_with_a_static_pattern, join_that_ends_together, a_mesh_names_the_ranks,
    a_mesh_of_two_dimensions, post_local_sgd,
)  # fmt: skip
