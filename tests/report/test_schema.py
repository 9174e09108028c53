"""The published schema says what a record's JSON is: what the reader takes, no more and no less."""

import json
from dataclasses import asdict, fields, is_dataclass

import pytest
from records import record

from sparse_ext.report import record as records_module
from sparse_ext.report import run as runs_module
from sparse_ext.report import schema
from sparse_ext.report.verdict import judged


def test_the_committed_schema_is_up_to_date():
    """`python -m sparse_ext.report.schema` writes it."""
    assert schema.PATH.read_text() == schema.text()


def test_every_class_and_field_is_in_it():
    definitions = schema.schema()["$defs"]
    kinds = {kind for module in (records_module, runs_module) for kind in vars(module).values() if is_dataclass(kind)}
    assert set(definitions) == {kind.__name__ for kind in kinds}
    for kind in kinds:
        assert list(definitions[kind.__name__]["properties"]) == [one.name for one in fields(kind)]
        assert definitions[kind.__name__]["description"]


def test_descriptions_are_those_of_the_docstrings_with_units():
    definitions = schema.schema()["$defs"]
    energy = {name: one.get("description") for name, one in definitions["Energy"]["properties"].items()}
    assert energy["gross_j"] == "as counted. In joules."
    assert energy["net_j"] == "without what the idle machine would have used in that time. In joules."
    assert energy["mean_w"] == "In watts."
    assert energy["estimated"] is None
    run = definitions["Run"]["properties"]
    assert run["flops"]["description"] == "executed, as kernels count them."
    assert run["planned_flops"]["description"] == "as the method's plan says."
    assert definitions["Stage"]["properties"]["frequency_mhz"]["description"] == "In megahertz."


def validator():
    jsonschema = pytest.importorskip("jsonschema")
    committed = json.loads(schema.PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(committed)
    return jsonschema.Draft202012Validator(committed)


@pytest.mark.parametrize("joules", [False, True])
def test_records_are_valid(joules):
    for one in (record(joules=joules), judged(record(joules=joules))):
        validator().validate(json.loads(json.dumps(asdict(one))))


CHANGES = {
    "format": (lambda d: d.update(format=9), "9 is not one of"),
    "no format": (lambda d: d.pop("format"), "'format' is a required property"),
    "no title": (lambda d: d.pop("title"), "'title' is a required property"),
    "more": (lambda d: d.update(colour=1), "'colour' was unexpected"),
    "text": (lambda d: d["metric"].update(tolerance="0.1"), "'0.1' is not of type 'number'"),
    "half a step": (lambda d: d["arms"][1]["runs"][2].update(steps=1.5), "1.5 is not of type 'integer'"),
    "outcome": (lambda d: d["arms"][1]["verdicts"]["flops"].update(outcome="won"), "'won' is not one of"),
    "layer": (lambda d: d["arms"][1]["layers"][0].update(shape=[1, None]), "None is not of type 'integer'"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_other_files_are_not(case):
    change, sentence = CHANGES[case]
    data = json.loads(json.dumps(asdict(judged(record()))))
    change(data)
    assert sentence in " ".join(error.message for error in validator().iter_errors(data))
