"""Two gloo processes: ranks agree on every pattern without sending it. The scenarios run in ranks.py."""

from pathlib import Path

import children
import exchange
import following
import pytest
import ranks
import torch
from training import KINDS, REGROWING, assert_same, backward, mlp, patterns, trainer

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """name -> (rank 0's outcome, rank 1's)."""
    folder = tmp_path_factory.mktemp("ranks")
    children.run(*((ranks.__file__, rank, folder) for rank in range(2)))
    return lambda name: tuple(torch.load(Path(folder) / f"{name}.{rank}", weights_only=True) for rank in range(2))


def values(outcomes, name):
    found = outcomes(name)
    for outcome in found:
        assert "value" in outcome, outcome["trace"]
    return [outcome["value"] for outcome in found]


def equal(outcomes, name):
    first, second = values(outcomes, name)
    assert first == second
    return first


def refused(outcomes, name, kind, *parts):
    for outcome in outcomes(name):
        assert outcome.get("kind") == kind, outcome
        for part in parts:
            assert part in outcome["error"]


def test_growth_takes_the_magnitude_of_the_mean_gradient(outcomes):
    assert equal(outcomes, "gradients_that_cancel") == (True, [[1, 4, 5, 7]])


def test_patterns_agree_when_one_rank_has_no_signal(outcomes):
    found = equal(outcomes, "one_rank_without_signal")
    assert [changed for changed, _ in found] == [step % 3 == 0 for step in range(1, ranks.STEPS)]
    assert len({str(pattern) for _, pattern in found}) == 5


def test_a_non_finite_score_on_one_rank_postpones_the_update_on_all(outcomes):
    changed, _ = equal(outcomes, "non_finite_on_one_rank")
    assert changed == [False, False, False, True, False]


def test_2_4_agrees_and_samples_apart(outcomes):
    (first, seeds), (second, others) = values(outcomes, "two_of_four")
    assert first == second
    assert {layouts[0] for _, layouts in first.values()} == {"2:4", "dense"}
    assert len(seeds) == len(others) == 4  # of FST none: it ends in its dense tail
    assert len({*seeds, *others}) == 4  # two layers on two ranks: of every method the same


@pytest.mark.parametrize(("method", "layout"), REGROWING)
def test_every_method_agrees(outcomes, method, layout):
    """On patterns after every step, and in the end on weights."""
    (first, weights), (second, others) = values(outcomes, f"trained_by_{REGROWING.index((method, layout))}")
    assert first == second
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    assert sum(changed for changed, _ in first) >= 2
    assert len({str(pattern) for _, pattern in first}) >= 2


def test_a_packed_weight_cannot_become_dense_under_ddp(outcomes):
    refused(
        outcomes,
        "a_dense_weight_after_ddp",
        "ValueError",
        "0: expected capacity for 240 entries before the model is wrapped, got 120",
    )


@pytest.mark.parametrize("name", ["half_batches", "accumulation_without_sync"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_as_one_process_does(outcomes, name, kind):
    found = equal(outcomes, name)[kind]
    model = mlp(dtype=torch.float64, kind=kind)
    optimizer, sparsifier = trainer(model)
    for step, expected in enumerate(found, 1):
        backward(model, step)
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        assert patterns(model) == expected, f"step {step}"
    assert len({str(pattern) for pattern in found}) == 5


@pytest.mark.parametrize("layout", ["auto", "csr"])
@pytest.mark.parametrize("method", following.METHODS)
def test_densities_that_change_agree_and_weights_keep_their_length(outcomes, method, layout, monkeypatch):
    """And both ranks train as one process does."""
    history = equal(outcomes, "densities_that_change")[f"{method} {layout}"]
    lengths = [[length for _, length in stored] for _, stored, _ in history]
    assert all(one == lengths[0] for one in lengths)
    layouts = {layout for _, stored, _ in history for layout, _ in stored}
    assert layouts == ({"csr"} if layout == "csr" else {"masked", "auto"})
    kept = "; has room for 240, as its weight must keep its length where several processes train"
    assert history[-1][2][0].endswith("as asked for" if layout == "csr" else kept)
    monkeypatch.setattr(following.auto.POLICY, "table", following.table_from_60_percent())
    model = mlp(dtype=torch.float64, layout=layout, method=method)
    optimizer = ranks.OPTIMIZERS["adamw"](model.parameters())
    chosen = ranks.method_named(method, **following.CHOICES)
    sparsifier = ranks.sx.Sparsifier(model, optimizer, chosen, total_steps=following.TOTAL)
    for step, (expected, *_) in enumerate(history, 1):
        backward(model, step)
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        assert patterns(model) == expected, f"step {step}"


def test_convolutions_with_batchnorm_agree(outcomes):
    assert len({str(pattern) for pattern in equal(outcomes, "convolutions_with_batchnorm")}) == 5


def test_random_growth_agrees_without_communication(outcomes):
    found, messages = equal(outcomes, "random_growth")
    assert messages == 0
    assert len({str(pattern) for pattern in found}) == 5


def test_ranks_that_hold_different_weights_are_found_out(outcomes):
    refused(
        outcomes, "diverged_weights", "RuntimeError",
        "step 3: expected the same pattern on all ranks, got another one on rank",
        "do the ranks hold the same weights?",
    )  # fmt: skip


def test_equal_seeds_give_equal_layers(outcomes):
    (pattern, weights), (other, others) = values(outcomes, "equal_seeds")
    assert pattern == other
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_ddp_makes_ranks_equal_that_began_with_different_patterns(outcomes):
    (out, *rest, loss), (other_out, *others, other_loss) = values(outcomes, "different_seeds")
    assert torch.equal(out, other_out)
    assert rest == others
    assert torch.equal(loss, other_loss)


def test_compiled_code_follows_what_ddp_sends(outcomes):
    (first, pattern), (second, other) = values(outcomes, "compiled_before_ddp")
    assert pattern == other
    assert torch.equal(first, second)


@pytest.mark.parametrize("scenario", ["no_room_after_wrapping", "no_room_inside_ddp"])
def test_a_layer_cannot_be_enlarged_under_ddp(outcomes, scenario):
    refused(outcomes, scenario, "ValueError", "before the model is wrapped", "pass method=... to sparsify_")


def test_state_moves_between_a_wrapped_and_a_plain_model(outcomes):
    assert equal(outcomes, "state_moves_between_ddp_and_plain") == ["0", "2"]


def test_fsdp_trains_a_static_pattern(outcomes):
    for (plain, sharded), local, report in values(outcomes, "fsdp_static"):
        assert_same(sharded, plain)
        assert local == 36  # half of the first layer's 72
        assert "72" in report
        assert "step 7, 0 updates" in report


@pytest.mark.parametrize("scenario", ["fsdp_rigl", "fsdp_set", "fsdp_afterwards"])
def test_fsdp_refuses_changing_patterns(outcomes, scenario):
    refused(outcomes, scenario, "ValueError", "FSDP-sharded", "a shard cannot be regrown", "Static()")


def test_a_sharded_layer_from_meta_has_one_pattern(outcomes):
    """Though every rank has another seed, and shards its values alone."""
    first, second = values(outcomes, "fsdp_from_meta")
    for (mask, y, nnz), (other, its, _) in zip(first, second, strict=True):
        assert nnz == int(mask.sum()) == 13
        assert torch.equal(mask, other)
        assert torch.equal(y, its)
        assert y.std() > 0


@pytest.mark.parametrize("method", exchange.METHODS)
def test_layers_exchange_weights_as_in_one_process(outcomes, method):
    found = equal(outcomes, "exchange_between_layers")[method]
    assert found == exchange.history(method, lambda model: model, lambda whole: whole)
    assert len({str(pattern) for pattern in found}) > 3


@pytest.mark.parametrize("scenario", ["join_with_growth", "join_with_random_growth"])
def test_join_is_refused(outcomes, scenario):
    """Before any rank waits for one that has run out of inputs."""
    refused(outcomes, scenario, "RuntimeError", "got a model in join()", "give each rank as many batches")


def test_join_without_changes(outcomes):
    assert values(outcomes, "join_with_a_static_pattern") == [5, 4]


def test_join_that_ends_all_ranks_together(outcomes):
    taken, _ = equal(outcomes, "join_that_ends_together")
    assert taken == 4


def test_a_mesh_names_the_ranks(outcomes):
    equal(outcomes, "a_mesh_names_the_ranks")
    refused(outcomes, "a_mesh_of_two_dimensions", "ValueError", "got a DeviceMesh of 2 dimensions")


def test_post_local_sgd_is_refused(outcomes):
    refused(outcomes, "post_local_sgd", "ValueError", "got PostLocalSGDOptimizer", "or Static()")


def test_ranks_freeze_alike(outcomes):
    """Rows and layers, dense and sparse; also beside RigL, whose pattern stays where a layer is frozen as a whole."""
    for how, (parts, weights, norms) in equal(outcomes, "freezing").items():
        assert all(not all(part) for part in parts) or how.startswith("layer")
        assert all(norm > 0 for norm in norms), how
        assert weights


def test_ranks_postpone_alike(outcomes):
    assert equal(outcomes, "one_rank_skips_scoring") == [0, 0, 1, 2]
