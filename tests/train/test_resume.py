"""Save, new process, load: the next 100 steps are those of the uninterrupted run, bit for bit."""

import io

import children
import pytest
import resume
import torch
from following import table_from_60_percent
from sampling import others_slow
from training import CHANGING, KINDS, assert_same, masks, run

import sparse_ext as sx
from sparse_ext.ops import auto

CASES = [(*how, "adamw", "linear", at) for how in CHANGING for at in (resume.SAVED_AT if how[1] == "csr" else (36, 40))]
CASES += [(*how, "sgd", "linear", 39) for how in CHANGING if how[1] == "csr"]
CASES += [("rigl", "csr", "adamw", kind, 39) for kind in KINDS if kind != "linear"] + [("fst", "2:4", "sgd", "conv2d", 40)]
# Of these the storage changes after the resume.
CASES += [(name, "auto", "adamw", "linear", 40) for name, kind in sx.METHODS.items() if kind.changes_density]


def is_slow(case):
    """One step of each run is enough for `make test`, and none of what comes from outside, which tests/outside resumes, too."""
    method, layout, *_, at = case
    return layout == "ell" or method == "sparse-momentum" or at != (39 if layout == "csr" else 40)


def name(case):
    return "-".join(map(str, case)).replace("/", "-")


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """{case}.checkpoint and, from another process, {case}.result; {case}.expected of the run that went on."""
    folder, before = tmp_path_factory.mktemp("resume"), auto.POLICY.table
    auto.POLICY.table = table_from_60_percent()
    torch.set_num_threads(1)
    users = (item for item in request.session.items if item.path == request.path and "folder" in item.fixturenames)
    cases = {item.callspec.params["case"] for item in users}
    for *how, kind in sorted({case[:-1] for case in cases}):
        model, optimizer, sparsifier = resume.build(*how, seed=5, kind=kind)
        step = 0
        stops = {at for *what, at in cases if what == [*how, kind]}
        for stop in sorted(stops | {at + resume.MORE for at in stops}):
            run(model, optimizer, sparsifier, range(step + 1, stop + 1))
            step = stop
            if stop in stops:
                saved = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "sparsifier": sparsifier.state_dict(),
                    "step": stop,
                    "how": how,
                    "kind": kind,
                }
                path = folder / name((*how, kind, stop))
                torch.save(saved, f"{path}.checkpoint")
                torch.save(masks(model), f"{path}.masks")
            if stop - resume.MORE in stops:
                path = folder / name((*how, kind, stop - resume.MORE))
                torch.save(resume.outcome(model, optimizer, sparsifier), f"{path}.expected")
                torch.save(masks(model), f"{path}.later")
    auto.POLICY.table = before
    children.run((resume.__file__, folder))
    return folder


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow][: is_slow(case)]) for case in CASES], ids=name)
def test_resumed_run_equals_uninterrupted_run(folder, case):
    def load(suffix):
        return torch.load(folder / f"{name(case)}.{suffix}", weights_only=True)

    assert_same(load("result"), load("expected"))
    before, after = load("masks"), load("later")
    # A schedule of densities may have come to the same phase again, or to its end.
    assert sx.METHODS[case[0]].changes_density or all(not torch.equal(before[layer], after[layer]) for layer in before)


@pytest.mark.parametrize(("method", "layout"), others_slow(CHANGING))
def test_state_goes_back_in_time(method, layout):
    """Loading into a Sparsifier that has trained on takes it back, an armed step included."""
    model, optimizer, sparsifier = resume.build(method, layout, "adamw", seed=0)
    run(model, optimizer, sparsifier, range(1, 40))
    saved = [thing.state_dict() for thing in (model, optimizer, sparsifier)]
    saved = torch.load(_through_a_file(saved), weights_only=True)
    results = []
    for _ in range(2):
        run(model, optimizer, sparsifier, range(40, 60))
        results.append(resume.outcome(model, optimizer, sparsifier))
        for thing, state in zip((model, optimizer, sparsifier), saved, strict=True):
            thing.load_state_dict(state)
    assert_same(*results)


def _through_a_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer
