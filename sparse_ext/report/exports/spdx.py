"""An SPDX 3.0.1 document (JSON-LD) of the energy that training took: a package for each arm.

Model: https://spdx.github.io/spdx-spec/v3.0.1/model/AI/Classes/EnergyConsumption/
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict
from datetime import datetime, timezone
from decimal import Decimal
from statistics import fmean
from typing import Any

from .. import figures
from ..record import Arm, Record
from . import words

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
SPEC_VERSION = "3.0.1"
CREATION = "_:creation"
Node = dict[str, Any]

# The profile "ai" asks for a supplier, a release, a place to download from and licences, which a measurement does not know.
PROFILES = ["core"]
COMMENT = (
    "Measured energy of training. Energy of inference was not measured. Who publishes a model adds its supplier, version, "
    "release time, download location and licences, and may then claim the profile 'ai'."
)


def document(record: Record) -> str:
    """The document's text. Of the same record it is the same, identifiers included.

    An arm whose joules are unknown has no `ai_energyConsumption`; its comment says why.

    Raises:
        ValueError: `record.created` is no time.
    """
    here = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(asdict(record)))}"
    creator = f"{here}#creator"
    creation = {
        "type": "CreationInfo",
        "@id": CREATION,
        "specVersion": SPEC_VERSION,
        "created": _utc(record.created),
        "createdBy": [creator],
    }
    version = record.versions.get("sparse_ext")
    agent = _element("SoftwareAgent", creator, " ".join(filter(None, ["sparse_ext", version])))
    packages = [_package(record, arm, f"{here}#arm-{number}") for number, arm in enumerate(record.arms, 1)]
    ids = [one["spdxId"] for one in packages]
    whole = _element("SpdxDocument", f"{here}#document", record.title) | {
        "comment": COMMENT,
        "profileConformance": PROFILES,
        "rootElement": ids,
        "element": [creator, *ids],
    }
    return json.dumps({"@context": CONTEXT, "@graph": [creation, agent, whole, *packages]}, indent=1) + "\n"


def _package(record: Record, arm: Arm, spdx_id: str) -> Node:
    """What one arm trained."""
    package = _element("ai_AIPackage", spdx_id, f"{record.title}: {arm.name}") | {
        "description": arm.about,
        "comment": words.energy(record, arm),
        "software_primaryPurpose": "model",
        "ai_informationAboutTraining": _training(record, arm),
        "ai_hyperparameter": [_entry(name, value) for name, value in _choices(arm).items()],
    }
    if arm.score is not None:
        package["ai_metric"] = [_entry(record.metric.name, figures.interval(arm.score))]
    joules, _ = words.joules(arm)
    if joules is not None:
        package["ai_energyConsumption"] = {
            "type": "ai_EnergyConsumption",
            "ai_trainingEnergyConsumption": [_megajoules(joules)],
        }
    return package


def _megajoules(joules: float) -> Node:
    """The quantity is an xsd:decimal, which has no exponent."""
    quantity = Decimal(f"{joules:.6g}").scaleb(-6)
    return {"type": "ai_EnergyConsumptionDescription", "ai_energyQuantity": f"{quantity:f}", "ai_energyUnit": "megajoule"}


def _training(record: Record, arm: Arm) -> str:
    if not arm.runs:
        return "No run was recorded."
    steps, samples, flops, seconds = (
        figures.number(fmean(values))
        for values in zip(*((run.steps, run.samples, run.flops, run.seconds.total_s) for run in arm.runs), strict=True)
    )
    return (
        f"Runs: {len(arm.runs)}; what follows is the mean of one. Steps: {steps}. Training samples: {samples}. "
        f"Floating-point operations executed: {flops}. Seconds, evaluation included: {seconds}. "
        f"Hardware: {words.hardware(record.machine)}."
    )


def _choices(arm: Arm) -> dict[str, Any]:
    named = {"precision": arm.precision, "method": arm.method, "layout": arm.layout, "sparsity": arm.sparsity}
    return {name: value for name, value in named.items() if value is not None} | arm.choices


def _entry(key: str, value: Any) -> Node:
    return {"type": "DictionaryEntry", "key": key, "value": value if isinstance(value, str) else json.dumps(value)}


def _element(kind: str, spdx_id: str, name: str) -> Node:
    return {"type": kind, "spdxId": spdx_id, "creationInfo": CREATION, "name": name}


def _utc(created: str) -> str:
    """As SPDX writes times: whole seconds and Z."""
    try:
        moment = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"created: expected a time as ISO 8601, got {created!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
