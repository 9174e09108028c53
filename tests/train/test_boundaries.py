"""A run resumes bit for bit at every kind of boundary: around updates, and where its method begins to do otherwise.

The boundaries are those of the plan that was carried out: no method is known by name.
"""

import io
from dataclasses import fields, replace

import pytest
import torch
from orders import recorded
from sampling import others_slow
from training import ACTING, OPTIMIZERS, assert_same, everything, method_named, mlp, run

import sparse_ext as sx

TOTAL, MORE = 40, 13
CHOICES = {"update_interval": 6, "refresh_interval": 6, "gradient_steps": 3, "drop_fraction": 0.4, "t_end": 0.9, "mvue": True}


def build(method, layout, seed):
    model = mlp(seed, layout=layout, method=method)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL, seed=seed)


def saved(trio):
    """As bytes: nothing is shared with the run that goes on."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in trio], file)
    return file.getvalue()


def outcome(model, optimizer, sparsifier):
    """All that goes on: tensors of training, and what the Sparsifier remembers."""
    state = sparsifier.state_dict()
    found = everything(model, optimizer) | {f"coverage of {name}": value for name, value in state.pop("coverage").items()}
    for name, signals in state.pop("signals").items():
        found |= {f"{name}.{signal}.{key}": value for signal, its in signals.items() for key, value in its.items()}
    # Why a layer has its layout may be told in another way: it came with the checkpoint.
    rows = [replace(row, reason="") for row in sparsifier.report().layers]
    return found | {"state": str(state), "report": rows}


def kind_of(action):
    """What it does, without by how much."""
    values = [getattr(action, field.name) for field in fields(action)]
    more = getattr(action, "grow", 0) > getattr(action, "drop", 0)
    return type(action), more, *(value > 0 if isinstance(value, int) else value for value in values)


def boundaries(updates):
    """{what: step} of a run with these updates, {step: orders}."""
    steps = sorted(updates)
    kinds = [{kind_of(action) for action in updates[step].values()} for step in steps]
    found = {"the start": 0}
    for number, step in enumerate(steps):
        if number == 0 or kinds[number] != kinds[number - 1]:
            found |= {f"before phase {number}": step - 1, f"phase {number}": step}
    middle = len(steps) // 2
    found |= {"before an update": steps[middle] - 1, "an update": steps[middle], "the last update": steps[-1]}
    return found | {"in between": (steps[middle - 1] + steps[middle]) // 2}


@pytest.mark.parametrize(("method", "layout"), others_slow(ACTING))
def test_a_run_resumes_at_every_kind_of_boundary(method, layout):
    trio = build(method, layout, seed=5)
    orders, updates = recorded(trio[2]), {}
    states, outcomes = [saved(trio)], [outcome(*trio)]
    for step in range(1, TOTAL + 1):
        orders.clear()
        run(*trio, range(step, step + 1))
        if orders and orders[0]:
            updates[step] = orders[0]
        states.append(saved(trio))
        outcomes.append(outcome(*trio))
    assert len(updates) >= 3
    for at in sorted(set(boundaries(updates).values())):
        other, state = build(method, layout, seed=99), torch.load(io.BytesIO(states[at]), weights_only=True)
        order = (0, 1, 2) if at % 2 else (1, 2, 0)
        for part in order:
            other[part].load_state_dict(state[part])
        assert_same(outcome(*other), outcomes[at])
        end = min(TOTAL, at + MORE)
        run(*other, range(at + 1, end + 1))
        assert_same(outcome(*other), outcomes[end])


def test_the_boundaries_of_a_method_with_a_dense_tail():
    """FST: masks every sixth step, and a switch of the layout after 5/6 of the run."""
    choose, switch = {"0": sx.methods.Choose("transposable")}, {"0": sx.methods.Switch("dense")}
    assert boundaries({6: choose, 12: choose, 18: choose, 24: choose, 33: switch}) == {
        "the start": 0, "before phase 0": 5, "phase 0": 6, "before phase 4": 32, "phase 4": 33, "before an update": 17,
        "an update": 18, "the last update": 33, "in between": 15,
    }  # fmt: skip
