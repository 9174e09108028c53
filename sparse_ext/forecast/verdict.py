"""All rows of an estimate together, and where dense is better, in words."""

from __future__ import annotations

from collections.abc import Sequence

from .result import LayerEstimate, Speed, added

BETTER = "dense is better here"


def together(name: str, rows: Sequence[LayerEstimate]) -> LayerEstimate:
    """The sum of these rows. Its density is that of the positions of all layers; its speed is weighted by the dense FLOPs."""
    sizes = [row.dense.flops.forward for row in rows]
    density = sum(size * row.density for size, row in zip(sizes, rows, strict=True)) / max(1, sum(sizes))
    dense, sparse = added(row.dense for row in rows), added(row.sparse for row in rows)
    return LayerEstimate(name, None, None, density, None, dense, sparse, _mean([row.speed for row in rows], sizes))


def _mean(speeds: list[Speed], weights: list[float]) -> Speed:
    def mean(values: list[float | None]) -> float | None:
        if any(value is None and weight for value, weight in zip(values, weights, strict=True)):
            return None
        pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
        return sum(value * weight for value, weight in pairs) / (sum(weights) or 1)

    why = next((one.why for one in speeds if one.why is not None), None)
    forward, grad_input, grad_weight, step = (
        mean(list(column)) for column in zip(*(_ratios(one) for one in speeds), strict=True)
    )
    return Speed(forward, grad_input, grad_weight, step, why)


def _ratios(speed: Speed) -> tuple[float | None, ...]:
    return speed.forward, speed.grad_input, speed.grad_weight, speed.step


def shares(row: LayerEstimate) -> dict[str, float | None]:
    """{what: sparse over dense}; None: unknown."""
    dense, sparse = row.dense.bytes.total, row.sparse.bytes.total
    flops = row.sparse.flops.training / row.dense.flops.training if row.dense.flops.training else 1.0
    held = None if dense is None or sparse is None else sparse / max(1, dense)
    return {"bytes": held, "FLOPs": flops, "seconds": row.speed.step}


def judged(row: LayerEstimate) -> str | None:
    """Where dense is better, in what; None: nowhere, or the layer is dense."""
    worse = [(what, share) for what, share in shares(row).items() if share is not None and share >= 1.0]
    if row.layout is None or not worse:
        return None
    return f"{BETTER}: sparse takes {_listed([f'{share:.2f} times its {what}' for what, share in worse])}"


def conclusion(model: LayerEstimate) -> str:
    """What is saved by training the model sparse, and in what dense is better."""
    known = {what: share for what, share in shares(model).items() if share is not None}
    saved = [f"{share:.2f} of the {what}" for what, share in known.items() if share < 1.0]
    worse = [f"{share:.2f} times the {what}" for what, share in known.items() if share >= 1.0]
    said = [f"Sparse takes {_listed(saved)} of dense."] if saved else []
    said += [f"Dense is better here: sparse takes {_listed(worse)}."] if worse else []
    said += [f"Unknown: {what}." for what in shares(model) if what not in known]
    return " ".join(said)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
