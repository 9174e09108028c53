"""A method of the tests' own that begins denser than it ends, drops more than it grows, and draws both at random."""

import math
from dataclasses import dataclass

from sparse_ext import methods, register_method


@register_method("thinning")
@dataclass(frozen=True)
class Thinning(methods.Method):
    signals = ("gradient",)
    changes_density = True

    drop_fraction: float = 0.3
    update_interval: int = 100
    t_end: float | int = 0.75

    def last_step(self, total_steps):
        return math.ceil(self.t_end * total_steps) if isinstance(self.t_end, float) else self.t_end

    def is_update(self, time):
        last = self.last_step(time.total_steps)
        return 0 < time.step <= last and (time.step % self.update_interval == 0 or time.step == last)

    def plan(self, layers, time):
        """On a straight line from the first density to the target, with as much churn as there is left to go."""
        left = max(0.0, 1 - time.step / self.last_step(time.total_steps))
        actions = {}
        for name, layer in layers.items():
            first = round(self.initial_density(layer.end / layer.positions) * layer.positions)
            leave = max(0, layer.nnz - layer.end - round(left * (first - layer.end)))
            churn = math.floor(self.drop_fraction * left * layer.end)
            actions[name] = methods.Regrow(leave + churn, churn, "magnitude", "gradient", keep_power=2.0, grow_power=1.0)
        return actions if time.step <= self.last_step(time.total_steps) else {}

    def initial_density(self, density):
        return min(1.0, 2 * density)

    max_density = initial_density
