"""What an estimate comes to, in words: what is saved, and where dense is better."""

from __future__ import annotations

from sparse_ext.report import figures

from .result import LayerEstimate

BETTER = "dense is better here"


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
    return f"{BETTER}: sparse takes {figures.listed([f'{share:.2f} times its {what}' for what, share in worse])}"


def conclusion(model: LayerEstimate) -> str:
    """What is saved by training the model sparse, and in what dense is better."""
    known = {what: share for what, share in shares(model).items() if share is not None}
    saved = [f"{share:.2f} of the {what}" for what, share in known.items() if share < 1.0]
    worse = [f"{share:.2f} times the {what}" for what, share in known.items() if share >= 1.0]
    sentences = [f"Sparse takes {figures.listed(saved)} of dense."] if saved else []
    sentences += [f"Dense is better here: sparse takes {figures.listed(worse)}."] if worse else []
    sentences += [f"Unknown: {what}." for what in shares(model) if what not in known]
    return " ".join(sentences)
