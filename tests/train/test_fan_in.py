"""`even`: rows in use have equally many positions; by hand, and for any weights and gradients."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from training import PATTERNS, active, chosen_layer, mlp, push

import sparse_ext as sx
from sparse_ext.methods import RegrowEvenly
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import CsrPattern, MaskedPattern
from sparse_ext.train.fan_in import even

# Rows of 3, 2, 3 and 1 positions: 9 in all. The smallest magnitudes are 1 (row 3) and 2 (row 2).
WEIGHT = [[9.0, 8.0, -7.0, 0.0], [0.0, 6.0, 0.0, -5.0], [2.0, 4.0, 0.0, 3.0], [0.0, 0.0, 1.0, 0.0]]
# The two largest are those at (0, 3), which is free, and (0, 0), which is stored.
GRADIENT = [[8.0, 0.0, 0.0, -9.0], [0.5, 0.0, 0.7, 0.0], [0.0, 0.0, 0.1, 0.0], [0.2, 0.3, 0.0, 0.4]]


def evened(kind=CsrPattern, weight=WEIGHT, gradient=GRADIENT, capacity=12, **choices):
    weight = torch.tensor(weight, dtype=torch.float64)
    pattern = kind.from_mask(weight != 0, capacity)
    at = pattern.positions()
    values = weight.flatten()[at.clamp(min=0)] * (at >= 0)
    action = RegrowEvenly(**{"drop": 2, "grow": 2, "nnz": 9, **choices})
    new, source = even(pattern, values, torch.tensor(gradient, dtype=torch.float64), action)
    moved = torch.where(source >= 0, values[source.clamp(min=0)], 0.0)
    where = new.positions()
    dense = torch.zeros(weight.numel(), dtype=torch.float64)
    dense[where[where >= 0]] = moved[where >= 0]
    return new.mask().int().tolist(), dense.view_as(weight).tolist()


@pytest.mark.parametrize("kind", [CsrPattern, MaskedPattern])
def test_no_row_is_given_up(kind):
    """9 / 4 = 2.25: each row gets 2. Rows 0 to 2 keep 9 and 8, 6 and 5, 4 and 3; row 3 lost its 1, and grows 0.4, 0.3."""
    mask, dense = evened(kind, salient=None)
    assert mask == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1]]
    assert dense == [[9, 8, 0, 0], [0, 6, 0, -5], [0, 4, 0, 3], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", [CsrPattern, MaskedPattern])
def test_a_row_without_salient_positions_is_given_up(kind):
    """Salient: 9 8 -7 and a gradient in row 0 (4), 6 -5 (2), 4 3 (2), none in row 3. 9 / 3 = 3 for the others.

    7 magnitudes stay: 9 8 7, 6 5, 4 3. Row 1 grows 0.7, and row 2 grows 0.1 at column 2.
    """
    mask, dense = evened(kind, salient=0.0)
    assert mask == [[1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert dense == [[9, 8, -7, 0], [0, 6, 0, -5], [0, 4, 0, 3], [0, 0, 0, 0]]


def test_a_share_of_the_present_fan_in():
    """9 / 4 rows in use = 2.25; 1.0 of that asks for 3 salient positions: row 0 alone. 4 columns hold 9 in 3 rows at least.

    Of rows 1, 2 and 3 those with the most salient ones join it: 1 and 2.
    """
    assert evened(salient=1.0)[0] == evened(salient=0.0)[0]


def test_a_share_of_all_inputs():
    """0.5 of 4 columns: 2 are enough for rows 0 to 2; 0.75 asks for 3, but three rows have to stay."""
    assert evened(salient=0.5, of_dense=True)[0] == evened(salient=0.0)[0]
    assert evened(salient=0.75, of_dense=True)[0] == evened(salient=0.0)[0]


def test_a_row_that_was_given_up_comes_back():
    """Its two gradients are the largest of the layer."""
    weight, gradient = [*WEIGHT[:3], [0.0] * 4], [*GRADIENT[:3], [0.0, 30.0, 0.0, 20.0]]
    assert evened(weight=weight, gradient=gradient, salient=0.0, nnz=8)[0][3] == [0, 1, 0, 1]


def test_ties_go_to_the_lower_column_and_row():
    ones = [[1.0] * 4, [1.0] * 4, [0.0] * 4]
    zeros = [[0.0] * 4] * 3
    # One of 8 equal weights is dropped: the last. 8 / 3 = 2.67: 3 each.
    mask, _ = evened(weight=ones, gradient=zeros, drop=1, grow=1, nnz=8, salient=None)
    assert mask == [[1, 1, 1, 0]] * 3
    # Of equal gradients the first position is salient: row 2 has none.
    assert evened(weight=ones, gradient=zeros, drop=1, grow=1, nnz=8, salient=0.0)[0] == [[1] * 4, [1] * 4, [0] * 4]


def test_half_a_position_is_rounded_up_if_there_is_room():
    """10 / 4 = 2.5."""
    assert [sum(row) for row in evened(salient=None, nnz=10, capacity=12)[0]] == [3] * 4
    assert [sum(row) for row in evened(salient=None, nnz=10, capacity=11)[0]] == [2] * 4


def test_fewer_positions_than_rows():
    """Each row in use has one: the rows with the most salient positions, here 0, then 1."""
    mask, _ = evened(salient=None, nnz=2)
    assert mask == [[1, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 8),
    cols=st.integers(1, 8),
    density=st.floats(0.1, 1.0),
    share=st.floats(0.0, 1.0),
    salient=st.sampled_from([None, 0.0, 0.3, 1.0]),
    of_dense=st.booleans(),
    few=st.booleans(),
)
def test_any_rows(seed, rows, cols, density, share, salient, of_dense, few):
    """Equal counts, no fewer rows than can hold nnz, nnz to within half a position a row; what stays is among the largest."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, cols, generator=generator) < density
    mask[0, 0] = True
    nnz = int(mask.sum())
    values = (
        torch.randint(-3, 4, (nnz,), generator=generator).double() if few else torch.randn(nnz, generator=generator).double()
    )
    gradient = torch.randn(rows, cols, generator=generator).double()
    pattern = CsrPattern.from_mask(mask, min(rows * cols, nnz + rows // 2))
    weight = torch.cat([values, values.new_zeros(pattern.capacity - nnz)])
    drop = int(share * nnz)
    new, source = even(pattern, weight, gradient, RegrowEvenly(drop, drop, nnz=nnz, salient=salient, of_dense=of_dense))
    new.check()
    counts = new.mask().sum(1)
    used = counts[counts > 0]
    assert used.unique().numel() == 1
    assert -(-nnz // cols) <= used.numel() <= min(rows, nnz)
    assert 2 * abs(new.nnz - nnz) <= used.numel()
    assert salient is not None or used.numel() == min(rows, nnz)
    before, after = mask & new.mask(), source[source >= 0]
    assert torch.equal(before.flatten().nonzero().flatten(), pattern.positions()[after])
    assert after.numel() == after.unique().numel()


# ---- from a Sparsifier ------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_steps():
    """The case by hand once more, from a backward pass on; the momentum follows, and what is new begins at 0."""
    layer = chosen_layer(torch.tensor(WEIGHT), capacity=0.75)
    model = nn.Sequential(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.5)
    method = sx.SRigL(drop_fraction=2.01 / 9, update_interval=1, schedule="constant", salient=0.0, ablate_last=True)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10)
    push(model, torch.tensor(GRADIENT))
    optimizer.step()
    assert sparsifier.step()
    assert layer.dense_weight().tolist() == [[9, 8, -7, 0], [0, 6, 0, -5], [0, 4, 0, 3], [0, 0, 0, 0]]
    momentum = optimizer.state[layer.weight]["momentum_buffer"]
    at = layer.slots()
    expected = torch.tensor(GRADIENT) * (torch.tensor(WEIGHT) != 0)
    assert torch.equal(momentum[at >= 0], expected.flatten()[at[at >= 0]])
    assert sparsifier.report().layers[0].ablated == 1
    assert sparsifier.report().layers[0].replaced_last == 2 / 9


def test_the_last_layer_keeps_its_neurons():
    def given_up(**choices):
        model = mlp(method="srigl")
        with torch.no_grad():
            for layer in sparse_layers(model).values():  # all that is large is in the first rows
                layer.weight[layer.nnz // 2 :] *= 1e-6
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        method = sx.SRigL(update_interval=1, drop_fraction=0.5, **choices)
        sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10)
        model(torch.zeros(2, 12)).sum().backward()
        optimizer.step()
        sparsifier.step()
        return [row.ablated > 0 for row in sparsifier.report().layers]

    assert given_up() == [True, False]
    assert given_up(ablate_last=True) == [True, True]
    assert given_up(salient=None) == [False, False]


def test_a_neuron_of_a_convolution_is_an_output_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.Flatten(), nn.Linear(24, 5))
    method = sx.SRigL(update_interval=1, salient=None)
    sx.sparsify_(model, 0.6, method=method, layout="csr", distribution="uniform")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10)
    assert model[0].nnz == 43  # 0.4 * 6 * 18
    model(torch.randn(3, 4, 4, 4)).square().sum().backward()
    optimizer.step()
    assert sparsifier.step()
    assert model[0].mask().shape == (6, 2, 3, 3)
    assert set(model[0].mask().flatten(1).sum(1).tolist()) == {7}  # 43 / 6 = 7.17


def test_what_a_checkpoint_brings_counts():
    """Not the nnz that the layer was made for, if rounding does not explain the difference."""
    layer = chosen_layer(torch.tensor(WEIGHT), capacity=1.0)
    method = sx.SRigL(update_interval=1, salient=None, drop_fraction=0.5)
    sparsifier = sx.Sparsifier(nn.Sequential(layer), torch.optim.SGD([layer.weight], lr=0.0), method, total_steps=10)
    few = chosen_layer(torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]), capacity=1.0)
    layer.load_state_dict(few.state_dict())
    push(layer, torch.tensor(GRADIENT))
    assert sparsifier.step()
    assert active(layer).view(4, 4).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("layout", [layout for layout in PATTERNS if layout != "csr"])
def test_layouts_that_store_some_positions_only(layout):
    model = mlp(layout=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if layout == "masked":
        sx.Sparsifier(model, optimizer, sx.SRigL(), total_steps=9)
        return
    why = "one density only: 0, 2; use layout='auto' or 'csr'" if layout == "2:4" else "a say in that: 0, 2; use layout='auto'"
    with pytest.raises(ValueError, match=why):
        sx.Sparsifier(model, optimizer, sx.SRigL(), total_steps=9)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"salient": -0.1}, r"salient in \[0, 1\] or None, got -0.1"),
        ({"salient": 1.5}, r"salient in \[0, 1\] or None, got 1.5"),
        ({"salient": float("nan")}, r"salient in \[0, 1\] or None, got nan"),
        ({"fan_in": "mean"}, "fan_in to be one of 'constant', 'dense', got 'mean'"),
    ],
)
def test_wrong_choices_are_refused(choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        sx.SRigL(**choices)


@given(rows=st.integers(1, 12), cols=st.integers(1, 12), density=st.floats(0.05, 0.95))
@settings(max_examples=40)
def test_sparsify_makes_room(rows, cols, density):
    """So that the Sparsifier need not enlarge layers, which it cannot under DDP."""
    method = sx.SRigL()
    model = nn.Sequential(nn.Linear(cols, rows), nn.Linear(rows, 3))
    sx.sparsify_(model, 1 - density, layout="csr", method=method, distribution="uniform")
    layers = sparse_layers(model).values()
    assume(layers)  # tiny ones stay dense
    capacity = [layer.capacity for layer in layers]
    sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=9)
    assert [layer.capacity for layer in layers] == capacity
