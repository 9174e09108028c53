"""energy.spdx.json: what it says, what it leaves out, and that it is SPDX 3.0.1."""

import json
import time
from dataclasses import replace
from decimal import Decimal

import pytest
from records import NO_COUNTER, record, with_arms, with_energy

from sparse_ext.report.exports import spdx


def nodes(one, kind):
    return [node for node in json.loads(spdx.document(one))["@graph"] if node["type"] == kind]


def test_each_arm_is_a_package_with_its_energy():
    """500 J and 180 J in each of three runs."""
    packages = nodes(record(joules=True), "ai_AIPackage")
    assert [one["name"] for one in packages] == ["A comparison: dense", "A comparison: RigL"]
    for package, joules in zip(packages, (500, 180), strict=True):
        consumption = package["ai_energyConsumption"]
        (described,) = consumption["ai_trainingEnergyConsumption"]
        assert consumption.keys() == {"type", "ai_trainingEnergyConsumption"}
        assert Decimal(described["ai_energyQuantity"]) * 1_000_000 == joules
        assert described["ai_energyUnit"] == "megajoule"
        assert f"{joules} J (mean of 3 runs" in package["comment"]
        assert "Sensor: NVML energy counter; covers: GPU" in package["comment"]


@pytest.mark.parametrize(("joules", "quantity"), [(4.2e-3, "0.0000000042"), (7.2e12, "7200000"), (1 / 3, "0.000000333333")])
def test_a_decimal_has_no_exponent(joules, quantity):
    arm = record(joules=True).arms[0]
    one = with_arms(
        record(), replace(arm, runs=tuple(replace(run, energy=replace(run.energy, gross_j=joules)) for run in arm.runs))
    )
    described = nodes(one, "ai_AIPackage")[0]["ai_energyConsumption"]["ai_trainingEnergyConsumption"][0]
    assert "E" not in described["ai_energyQuantity"]
    assert Decimal(described["ai_energyQuantity"]) == Decimal(quantity)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (record(), NO_COUNTER),
        (with_energy(record(joules=True), 0, gross_j=None, why="the counter went back"), "the counter went back"),
        (with_arms(record(joules=True), replace(record().arms[0], runs=())), "no run was recorded"),
    ],
    ids=["no counter", "one run of three", "no run"],
)
def test_unknown_joules_are_absent_and_told(one, why):
    package = nodes(one, "ai_AIPackage")[0]
    assert "ai_energyConsumption" not in package
    assert package["comment"] == f"The training energy is unknown, because {why}."


def test_an_estimate_is_said_to_be_one():
    assert "), counted." in nodes(record(joules=True), "ai_AIPackage")[0]["comment"]
    assert "), estimated:" in nodes(with_energy(record(joules=True), 0, estimated=True), "ai_AIPackage")[0]["comment"]


def test_how_it_was_trained():
    _, sparse = nodes(record(), "ai_AIPackage")
    assert sparse["ai_informationAboutTraining"] == (
        "Runs: 3; what follows is the mean of one. Steps: 100. Training samples: 3200. "
        "Floating-point operations executed: 2e+11. Seconds, evaluation included: 4.1. Hardware: 1 x A CPU."
    )
    assert {entry["key"]: entry["value"] for entry in sparse["ai_hyperparameter"]} == {
        "precision": "float32", "method": "rigl", "layout": "auto", "sparsity": "0.9", "update_interval": "100",
    }  # fmt: skip
    assert [(entry["key"], entry["value"]) for entry in sparse["ai_metric"]] == [
        ("bits per character", "2.020 (2.000 to 2.040)")
    ]


def test_the_same_record_is_the_same_document():
    assert spdx.document(record()) == spdx.document(record())
    one, other = (nodes(which, "SpdxDocument")[0]["spdxId"] for which in (record(), record(joules=True)))
    assert one != other


@pytest.fixture
def tokyo(monkeypatch):
    """Where a time without a zone is not UTC."""
    with monkeypatch.context() as here:
        here.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(
    ("created", "written"),
    [
        ("2026-11-30T12:00:00+00:00", "2026-11-30T12:00:00Z"),
        ("2026-11-30T12:00:00.250Z", "2026-11-30T12:00:00Z"),
        ("2026-11-30T14:00:00+02:00", "2026-11-30T12:00:00Z"),
        ("2026-11-30T12:00:00", "2026-11-30T12:00:00Z"),
    ],
)
def test_times_are_utc(created, written):
    assert nodes(replace(record(), created=created), "CreationInfo")[0]["created"] == written


def test_another_time_is_refused():
    with pytest.raises(ValueError, match="created: expected a time as ISO 8601, got 'yesterday'"):
        spdx.document(replace(record(), created="yesterday"))


def read_back(document):
    """By the classes that are generated of SPDX' own model; raises what they find. Writing checks that nothing is missing."""
    model = pytest.importorskip("spdx_python_model", reason="pip install spdx-python-model")
    version, objects = model.load_data(document)
    assert not objects.link(), "an identifier of nothing"
    version.JSONLDSerializer().serialize_data(objects)
    return objects


@pytest.mark.parametrize("joules", [False, True])
def test_it_is_spdx_3_0_1(joules):
    objects = read_back(json.loads(spdx.document(record(joules=joules))))
    packages = sorted(objects.foreach_type("ai_AIPackage"), key=lambda one: one.name, reverse=True)
    assert [one.name for one in packages] == ["A comparison: dense", "A comparison: RigL"]
    found = [one.ai_energyConsumption for one in packages]
    if joules:
        quantities = [one.ai_trainingEnergyConsumption[0].ai_energyQuantity for one in found]
        assert quantities == pytest.approx([500e-6, 180e-6])
    else:
        assert found == [None, None]


def drop(node, name):
    del node[name]


def described(package):
    return package["ai_energyConsumption"]["ai_trainingEnergyConsumption"][0]


WRONG = {
    "ai_energyQuantity.* is required": lambda package: drop(described(package), "ai_energyQuantity"),
    "'joule' is not a valid value": lambda package: described(package).update(ai_energyUnit="joule"),
    "Unknown property 'ai_energy'": lambda package: package.update(ai_energy="1"),
    "creationInfo.* is required": lambda package: drop(package, "creationInfo"),
    "'network' is not a valid value": lambda package: package.update(software_primaryPurpose="network"),
    "an identifier of nothing": lambda package: package.update(suppliedBy="urn:example:nobody"),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_the_model_refuses_what_is_not(sentence):
    document = json.loads(spdx.document(record(joules=True)))
    WRONG[sentence](document["@graph"][-1])
    with pytest.raises((ValueError, KeyError, AssertionError), match=sentence):
        read_back(document)
