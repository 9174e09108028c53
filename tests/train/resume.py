"""Run by test_resume.py in a process of its own: continues every checkpoint in a folder, and leaves the results there.

python resume.py FOLDER
"""

import sys
from pathlib import Path

import torch
from following import table_from_60_percent
from training import OPTIMIZERS, everything, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.ops import auto

# Updates at 10, 20 ... 250: ten in the 100 steps that follow. RigL is armed on 37 to 40, 47 to 50, ...
CHOICES = {"update_interval": 10, "drop_fraction": 0.3, "t_end": 260, "gradient_steps": 4, "refresh_interval": 10, "mvue": True}
TOTAL, MORE = 340, 100
SAVED_AT = (39, 40, 70)  # armed and half observed; just updated; in between


def build(method: str, layout: str, optimizer: str, seed: int, kind: str = "linear"):
    model = mlp(seed, layout=layout, method=method, kind=kind)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    return (
        model,
        optimizer,
        sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL, seed=seed),
    )


def outcome(model, optimizer, sparsifier) -> dict:
    return everything(model, optimizer) | {"report": str(sparsifier.report())}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    auto.POLICY.table = table_from_60_percent()  # as in the process that wrote them
    for path in folder.glob("*.checkpoint"):
        saved = torch.load(path, weights_only=True)
        # Another seed: nothing may come from construction.
        model, optimizer, sparsifier = build(*saved["how"], seed=99, kind=saved["kind"])
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        sparsifier.load_state_dict(saved["sparsifier"])
        run(model, optimizer, sparsifier, range(saved["step"] + 1, saved["step"] + MORE + 1))
        torch.save(outcome(model, optimizer, sparsifier), path.with_suffix(".result"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
