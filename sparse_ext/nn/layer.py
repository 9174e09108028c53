"""`SparseLayer`: the base class of sparse layers: forward pass, initialisation, and the changes that training makes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.fx import Proxy

from sparse_ext.ops import Product, Rule, Watch, kernels_of, layout_named, multiply
from sparse_ext.ops.dense_grad import Sink

from .arguments import check_dtype, check_share, storage
from .bound import recording, tracing
from .foreign import as_leaf, check_entrywise
from .moves import MovableWeight


class SparseLayer(MovableWeight):
    """A sparse weight and the product that multiplies it. A subclass fixes the product.

    `weight` is an ordinary 1-D Parameter: optimizers, AMP, DDP, FSDP2, CUDA graphs and checkpoints need no special case.

    - Packed weight, [capacity]: only the stored values. Unused slots are 0 and stay 0. Changes of the pattern keep the length.
    - Dense weight, [rows * cols]: products use the positions of the pattern, which a rule chooses; gradients reach all.

    The pattern's tensors are persistent buffers. A dense weight has one more, `rule`: the rule as text.

    Args:
        product: the product and the shape of the weight.
        bias, device, dtype: as of the corresponding dense layer.
        sparsity, layout, capacity: as of `SparseLinear`.
    """

    def __init__(
        self,
        product: Product,
        bias: bool,
        sparsity: float | None,
        layout: str,
        capacity: float | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        rows, cols = product.rows, product.cols
        where = torch.get_default_device() if device is None else torch.device(device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        stored = storage(layout, product, sparsity, dtype, where)
        kind = layout_named(stored.chosen)
        kernels_of(kind, product)
        check_dtype(type(self).__name__, dtype, where, kind)
        sparsity = kind.pattern.SPARSITY if sparsity is None else float(sparsity)
        sizes = kind.pattern.sizes(rows, cols, sparsity, None if capacity is None else check_share("capacity", capacity))
        self._asked, (self.layout, self.layout_reason) = layout, stored
        self.product, self._initial_nnz = product, sizes.nnz
        pattern = kind.pattern.empty(rows, cols, sizes.capacity, device)
        length = rows * cols if sizes.dense_weight else pattern.capacity
        self.weight = nn.Parameter(torch.zeros(length, device=device, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)) if bias else None)
        self._start()
        self._register(pattern, self._first_rule(sizes.dense_weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product of x and the weight, plus bias. x as the dense layer takes it."""
        if type(x) is not torch.Tensor and isinstance(x, Proxy):
            return as_leaf(self, x)
        active, buffers = self._active, self._buffers
        if torch.compiler.is_compiling() or tracing() is not None or recording() is not None:
            operands, handle = self._in_graph()
        else:
            # Compared here, not in `_followed`: the call would cost 2 % of a tiny product.
            for name, tensor, version, address in active.seen:
                if buffers[name] is not tensor or tensor.data_ptr() != address or tensor._version != version:
                    active = self._followed()
                    break
            operands, handle = active.operands, self._handle
        # `self.weight` goes by way of Module.__getattr__, which a tiny product would notice.
        parameters: dict[str, Any] = self._parameters
        if "weight" in parameters and "bias" in parameters:
            weight, bias = parameters["weight"], parameters["bias"]
        else:  # parametrized, or a replica of nn.DataParallel
            check_entrywise(self)
            weight, bias = self.weight, self.bias
        part = None
        if self._trains is not None and active is self._home:
            weight, bias, part = self._trains.of(weight, bias)
        return multiply(
            self._kind, self.product, x, weight, bias, operands,
            active.rule, self._rng, handle, self._token, None, active.pattern, part,
        )  # fmt: skip

    # ---- values ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def set_matrix_(self, dense: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Sets pattern and values from a dense matrix, in place.

        Args:
            dense: the values, of the dense layer's weight shape. A dense weight takes all of them.
            mask: bool, of the same shape: the positions to use. None: the largest magnitudes, as many as a new layer has.

        Raises:
            ValueError: a shape is wrong, or the mask does not fit the layout or the capacity.
        """
        shape = self.product.weight_shape
        for name, given in (("matrix", dense), ("mask", mask)):
            if given is not None and given.shape != shape:
                raise ValueError(f"expected a {name} of shape {shape}, got {tuple(given.shape)}")
        flat = (self.product.rows, self.product.cols)
        dense = dense.to(self.weight).reshape(flat)
        if mask is None:
            pattern, rule = self._chosen(dense, self._initial_nnz)
        else:
            mask = mask.to(dense.device).reshape(flat)
            pattern, rule = self._pattern.from_mask(mask, self._pattern.capacity), self._rule
            dense = dense.masked_fill(pattern.mask() & ~mask, 0)  # a 2:4 pattern fills up its groups
        self.write_pattern_(pattern, rule)
        self.weight.copy_(self._kind.pack(dense, self._pattern) if rule is None else dense.view(-1))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A new random pattern with the initial nnz, and new values.

        Values are uniform with variance 1 / (3 fan_in), as in the dense layer, where fan_in is the mean number of weights in a
        row. So outputs have the dense layer's scale at every sparsity. The bias is initialised as there. A dense weight
        gets new values everywhere, and the rule chooses the pattern from them.
        """
        self.reset_()

    @torch.no_grad()
    def reset_(self, spread: float | None = None) -> None:
        """`reset_parameters`, with any spread of the pattern, see `random_pattern`."""
        if self.weight.is_meta:
            return
        rows, cols = self.product.rows, self.product.cols
        if self._rule is None:
            self.write_pattern_(self.random_pattern(spread))
        used = self._initial_nnz if self._rule is None else rows * cols
        bound = math.sqrt(rows / used) if used else 0.0
        nn.init.uniform_(self.weight, -bound, bound)
        self._clear_unused()
        if self._rule is not None:
            self.set_matrix_(self.weight.detach().view(self.product.weight_shape))
        if self.bias is not None:
            bound = 1.0 / math.sqrt(cols) if cols else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    def aim_at_(self, density: float) -> None:
        """Says for which density the layer is made, if it begins with another: a method may lead it there."""
        self._target_nnz = round(density * self.product.rows * self.product.cols)

    # ---- changes of what is stored; each returns the slot map, by which optimizer state follows ------------------------------

    def enlarge_(self, capacity: int) -> torch.Tensor:
        """Extends a packed weight to this capacity, in place; new slots are unused. Returns the slot map."""
        if capacity <= self.capacity:
            return torch.arange(self.capacity, device=self.weight.device)
        return self._move_to(self.layout, self._pattern.resized(capacity), None)

    def store_dense_(self, layout: str | None = None) -> torch.Tensor:
        """Makes a packed weight dense, in place, with 0 where nothing was stored. A dense weight stays as it is.

        Args:
            layout: the new layout; None: the present one, with the present positions. `choose_` chooses others.

        Returns:
            The slot map.

        Raises:
            ValueError: the layout has no rules, so it cannot use a part of a dense weight.
        """
        if self._rule is not None:
            return self.slots()
        kind = self._kind.pattern if layout is None else layout_named(layout).pattern
        if not kind.RULES:
            raise ValueError(f"expected a layout that takes a part of a dense weight, got {layout or self.layout!r}")
        if layout is None or layout == self.layout:
            pattern = self._pattern
        else:
            dense = self._kind.unpack(self.weight.detach(), self._pattern)
            pattern = kind.select(dense.float(), self._initial_nnz)
        return self._move_to(layout or self.layout, pattern, Rule(kind.RULES[0]))

    def switch_(self, layout: str) -> torch.Tensor:
        """Stores the weight packed in another layout, in place. It holds the same positions, and zeros if it needs more.

        Returns:
            The slot map.

        Raises:
            ValueError: the layout cannot hold these positions; nothing has changed.
        """
        source = self.store_as_(layout)
        self._asked = layout
        return source

    def store_as_(self, layout: str, capacity: int | None = None, reason: str | None = None) -> torch.Tensor:
        """As `switch_`, for a caller that chooses the storage of a layer that was asked for another layout.

        capacity: of the packed weight; None: as needed. reason: why it is stored so.
        """
        kind = layout_named(layout)
        kernels_of(kind, self.product)
        mask = torch.ones_like(self._pattern.mask()) if self._rule is not None else self._pattern.mask()
        source = self._move_to(layout, kind.pattern.from_mask(mask, capacity), None)
        self.layout_reason = reason or self.layout_reason
        return source

    @torch.no_grad()
    def choose_(self, rule: str) -> None:
        """Prunes a dense weight again: chooses by this rule which positions products use.

        The same rule as before keeps its scale and does not synchronise; another rule computes its scale and does.

        Raises:
            ValueError: the weight is packed, or the layout has no such rule.
        """
        if self._rule is None or rule not in self._pattern.RULES:
            known = ", ".join(map(repr, self._pattern.RULES))
            raise ValueError(f"choose_: expected a layer with a dense weight and one of the rules {known}, got {rule!r}")
        dense, count = self.weight.detach().view(self.product.rows, self.product.cols), self._initial_nnz
        if rule == self._rule.name:
            self.write_pattern_(self._pattern.select(dense, count, capacity=self._pattern.capacity, rule=rule))
        else:
            self.write_pattern_(*self._chosen(dense, count, rule))

    # ---- the weight gradient --------------------------------------------------------------------------------------------

    def sample_gradient(self, rng: torch.Tensor | None) -> None:
        """From now on, backward passes estimate the weight gradient from a random sample of the output gradient.

        Args:
            rng: int64 [2], (seed, offset), on the layer's device; every product with it adds 1 to the offset: of a
                convolution, each tile of images. None: exact gradients again.

        Raises:
            ValueError: the layout cannot sample.
        """
        if rng is not None and not self._kind.SAMPLES:
            raise ValueError(f"sample_gradient: expected a layout that samples output gradients, got {self.layout!r}")
        self._rng = rng

    @property
    def can_sample(self) -> bool:
        """Whether `sample_gradient` is possible."""
        return self._kind.SAMPLES

    @property
    def rng(self) -> torch.Tensor | None:
        """(seed, offset) as `sample_gradient` was given; None: gradients are exact."""
        return self._rng

    @property
    def watched(self) -> Watch | None:
        """The present watch on the dense weight gradient."""
        return self._watch

    def watch(self, sink: Sink | None) -> Watch:
        """Until `unwatch`, sends every dense weight gradient that is accumulated into `weight.grad` to `sink`.

        Ends an earlier watch.

        Args:
            sink: receives the gradients; None: accumulations are only counted.
        """
        self.unwatch()
        self._watch = Watch(self._handle, self.weight, self.product, sink)
        self._token = self._watch.token = torch.zeros(1, dtype=torch.int64, device=self.weight.device)
        return self._watch

    def unwatch(self) -> Watch | None:
        """Ends the watch and returns it, with its results; None if there was none."""
        watch, self._watch, self._token = self._watch, None, None
        if watch is not None:
            watch.stop()
        return watch
