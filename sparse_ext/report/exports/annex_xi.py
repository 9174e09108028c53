"""An energy log in the form of Annex XI of the EU AI Act, Section 1, point 2 (d) and (e)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from .. import amounts, figures, table
from ..record import Arm, Machine, Record
from ..run import Run
from . import words

ABOUT = """\
This log arranges what a comparison measured by Regulation (EU) 2024/1689 (AI Act), Annex XI, Section 1, point 2, which lists
what providers of general-purpose AI models document:

- (d) "the computational resources used to train the model (e.g. number of floating point operations), training time, and other
  relevant details related to the training";
- (e) "known or estimated energy consumption of the model". Where it is unknown, it "may be based on information about
  computational resources used".

It is a record of measurements. It does not say that a model is one of general purpose, nor that these points are all that is
asked, nor that they are met. It covers the runs below and nothing else: no search for hyper-parameters, no earlier attempt, no
preparation of data, no inference."""

SILENT = figures.unknown("the machine does not tell")


def page(record: Record) -> str:
    """The whole log, in Markdown: a section for each arm."""
    head = [f"# Energy log: {record.title}", ABOUT, f"Measured: {record.created}.", _machine(record.machine)]
    parts = [*head, _versions(record), *(part for arm in record.arms for part in _arm(record, arm))]
    return "\n\n".join(parts) + "\n"


def _machine(machine: Machine) -> str:
    rows = [
        ("Devices that trained", words.hardware(machine)),
        ("CPU", f"{machine.cpu}; cores: {machine.cores}, threads used: {machine.threads}"),
        ("Memory", SILENT if machine.memory_bytes is None else amounts.measure(machine.memory_bytes, "bytes")),
        ("Operating system", machine.os),
    ]
    if machine.gpu is not None:
        limit = SILENT if machine.power_limit_w is None else f"{figures.number(machine.power_limit_w)} W"
        rows += [("GPU", machine.gpu), ("Driver", machine.driver or SILENT), ("Power limit", limit)]
    return "## Hardware\n\n" + table.markdown(["", ""], rows)


def _versions(record: Record) -> str:
    return "Software: " + ", ".join(f"{name} {version}" for name, version in record.versions.items() if version) + "."


def _arm(record: Record, arm: Arm) -> list[str]:
    if not arm.runs:
        return [f"## {arm.name}", f"{arm.about}.", "No run was recorded."]
    asked = ["Point", "What", "Mean of one run", "How it is known"]
    rows = [*_resources(record, arm), *_energy(record, arm)]
    each = table.markdown(["Seed", "Steps", "Samples", "Seconds", "FLOPs", "Joules"], list(map(_run, arm.runs)))
    return [f"## {arm.name}", f"{arm.about}.", table.markdown(asked, rows), f"Each of the {len(arm.runs)} runs:", each]


def _resources(record: Record, arm: Arm) -> list[tuple[str, str, str, str]]:
    """Point (d)."""

    def of(value: Callable[[Run], float]) -> str:
        return figures.number(fmean(map(value, arm.runs)))

    updates, evaluation = of(lambda run: run.seconds.updates_s), of(lambda run: run.seconds.evaluation_s)
    time = f"clock; of it updates of the pattern {updates} s, evaluation {evaluation} s; the warm-up is not in it"
    trained = f"{of(lambda run: run.steps)} steps, {of(lambda run: run.samples)} samples, {arm.precision}"
    sparse = "" if arm.method is None else f", {arm.method}, layout {arm.layout}, sparsity {arm.sparsity}"
    memory = amounts.measure(max(run.memory.total for run in arm.runs), "bytes")
    return [
        ("(d)", "Floating-point operations", of(lambda run: run.flops), "counted as they were executed"),
        ("(d)", "Floating-point operations, planned", of(lambda run: run.planned_flops), "computed from the plan"),
        ("(d)", "Training time", f"{of(lambda run: run.seconds.total_s)} s", time),
        ("(d)", "Hardware-days", of(lambda run: run.hardware_days), f"training time times {words.hardware(record.machine)}"),
        ("(d)", "Peak memory", memory, "of a training step, the largest of all runs"),
        ("(d)", "Training", f"{trained}{sparse}", "configuration"),
    ]


def _energy(record: Record, arm: Arm) -> list[tuple[str, str, str, str]]:
    """Point (e)."""
    (gross, why), (net, why_net) = words.joules(arm), words.joules(arm, "net_j")
    if gross is None:
        basis = "not estimated here; the resources under (d) are what an estimate may be based on"
        return [("(e)", "Energy", figures.unknown(why), basis)]
    how = f"{words.how(record, arm)}; {words.sensor(record)}"
    idle = "without what the idle machine would have used in that time"
    return [
        ("(e)", "Energy", f"{figures.number(gross)} J ({figures.number(gross / 3.6e6)} kWh)", f"{how}; evaluation included"),
        ("(e)", "Energy above idle", figures.unknown(why_net) if net is None else f"{figures.number(net)} J", idle),
    ]


def _run(run: Run) -> list[str]:
    gross = run.energy.gross_j
    joules = figures.unknown(run.energy.why) if gross is None else figures.number(gross)
    seconds, flops = figures.number(run.seconds.total_s), figures.number(run.flops)
    return [str(run.seed), str(run.steps), str(run.samples), seconds, flops, joules]
