"""stages.csv: the very columns that Perseus reads; without stages no file."""

from dataclasses import replace

import pytest
from records import record, with_arms

from sparse_ext.report import cli
from sparse_ext.report.exports import stages
from sparse_ext.report.run import Stage
from sparse_ext.report.verdict import judged

FOUR = (
    Stage(1, "backward", 900, 0.25, 30.0),
    Stage(0, "backward", 900, 0.5, 100.0),
    Stage(0, "forward", 1410, 0.1, 31.25),
    Stage(0, "forward", 900, 0.15, 25.5),
    Stage(1, "forward", 900, 1e-05, 1e-3),
)


def with_stages(*each):
    """The record, whose arms have these stages, one after the other."""
    one = record()
    return with_arms(one, *(replace(arm, stages=found) for arm, found in zip(one.arms, each, strict=True)))


def test_by_hand():
    assert stages.table(with_stages((), FOUR)) == (
        "stage,instruction,frequency,time,energy\n"
        "0,forward,900,0.15,25.5\n"
        "0,forward,1410,0.1,31.25\n"
        "0,backward,900,0.5,100.0\n"
        "1,forward,900,1e-05,0.001\n"
        "1,backward,900,0.25,30.0\n"
    )


PAIR = (Stage(0, "forward", 1000, 1.0, 1.0), Stage(0, "backward", 1000, 2.0, 2.0))


@pytest.mark.parametrize(("each", "lines"), [((FOUR, PAIR), 3), ((PAIR, FOUR), 6), ((PAIR, ()), 3)])
def test_the_sparse_arm_comes_first(each, lines):
    """The dense one's are written where no sparse arm has any."""
    assert len(stages.table(with_stages(*each)).splitlines()) == lines


def test_without_stages_there_is_no_file(tmp_path, monkeypatch):
    """Nor one that another record left."""
    monkeypatch.setattr(cli, "PAGES", {"stages.csv": cli.PAGES["stages.csv"]})
    assert stages.table(record()) is None
    assert cli.write_pages(judged(with_stages((), FOUR)), tmp_path) == [tmp_path / "stages.csv"]
    assert cli.write_pages(judged(record()), tmp_path) == []
    assert not (tmp_path / "stages.csv").exists()


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (PAIR[:1], "stages of RigL: expected forward and backward of stages 0 to 0, got no backward of stage 0"),
        (tuple(replace(one, stage=1) for one in PAIR), "stages 0 to 0, got no forward of stage 0"),
        ((*PAIR, Stage(2, "forward", 1000, 1.0, 1.0)), "stages 0 to 1, got no forward of stage 1"),
        ((*PAIR, Stage(0, "update", 1000, 1.0, 1.0)), "expected forward or backward, got 'update'"),
    ],
)
def test_stages_that_a_planner_cannot_read_are_refused(found, sentence):
    with pytest.raises(ValueError, match=sentence):
        stages.table(with_stages((), found))
