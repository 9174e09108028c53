"""SRigL: RigL in which every neuron has the same number of inputs, and neurons with too few salient weights are given up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .actions import Action, RegrowEvenly
from .base import About
from .checks import check_choice
from .numbers import LayerNumbers, Time
from .rigl import RigL

FAN_INS = ("constant", "dense")


@dataclass(frozen=True)
class SRigL(RigL):
    """RigL with a constant fan-in and neuron ablation (Lasby et al. 2024, https://arxiv.org/abs/2305.02299, section 3).

    A neuron is a row of the weight matrix: of a convolution an output channel, with in / groups * kernel size inputs. At an
    update that replaces K weights, salient are the weights of a layer that RigL would keep, and the K largest gradients of all
    positions. A neuron with few of them is given up: it loses all its weights, and its output is its bias. All others get the
    same fan-in, nnz / neurons in use, rounded: they drop the layer's smallest magnitudes, and grow where the row's gradient is
    largest. nnz is that which the layer was made for. Rounding moves it by at most half an entry for each neuron in use.

    The paper does not say what a neuron drops that has more weights than its fan-in: here, its smallest magnitudes. As in the
    authors' code, every update chooses the neurons anew: one that was given up comes back if its gradients are among the
    largest. Enough neurons stay to hold nnz. The last layer that the method trains, in the model's order, loses none.

    Layers have a constant fan-in from their first update on. `sparsify_(model, ..., method=SRigL())` gives them one at the
    start that differs by 1 at most, so that their nnz is exact. The dense gradient of the update's step is held as a matrix.

    Args:
        salient: gamma_sal: a neuron stays if this share of its fan-in, and at least one weight, is salient. In [0, 1]; 0: one
            salient weight is enough. None: no neuron is given up.
        fan_in: what `salient` is a share of: "constant" (the neurons' present fan-in, as in the paper), or "dense" (all inputs,
            as in the authors' code unless a flag is set: at high sparsity it gives up as many neurons as it can).
        ablate_last: whether the last layer may lose neurons, too.
        gradient_steps: see `RigL`. drop_fraction, update_interval, t_end, schedule: see `DropAndGrow`.

    Raises:
        ValueError: an argument is out of range.
    """

    changes_density = True
    spare_per_row = 0.5
    any_positions = True
    about = About(
        "Lasby et al. 2024, https://arxiv.org/abs/2305.02299",
        grad_weight="d + 1/update_interval",
        optimizer_memory="d + 1/2 entry per neuron",
        good_for="sparse layers whose neurons all have the same fan-in, and fewer neurons at high sparsity",
    )

    salient: float | None = 0.3
    fan_in: str = "constant"
    ablate_last: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.salient is not None and not 0.0 <= self.salient <= 1.0:
            raise ValueError(f"expected salient in [0, 1] or None, got {self.salient}")
        check_choice("fan_in", self.fan_in, FAN_INS)

    @property
    def first_spread(self) -> float | None:
        return 1.0

    def plan(self, layers: Mapping[str, LayerNumbers], time: Time) -> dict[str, Action]:
        if not 0 < time.step < self.last_step(time.total_steps):
            return {}
        exempt = None if self.ablate_last else list(layers)[-1:]
        actions: dict[str, Action] = {}
        for name, layer in layers.items():
            nnz = layer.nnz
            count = math.floor(self.share(time) * nnz)
            if count:
                # A checkpoint may have brought another nnz than that which the layer was made for.
                is_rounded = 2 * abs(nnz - layer.end) <= layer.rows
                actions[name] = RegrowEvenly(
                    count,
                    count,
                    grow_by=self.grow_by,
                    nnz=layer.end if is_rounded else nnz,
                    salient=None if exempt == [name] else self.salient,
                    of_dense=self.fan_in == "dense",
                )
        return actions
