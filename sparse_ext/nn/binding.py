"""`Binding`: what is derived from one state of a layer's buffers, and how it is seen that they are in that state no more."""

from __future__ import annotations

from typing import Any

import torch

from sparse_ext.ops import Layout, Pattern, Rule, keep_operands, lasting
from sparse_ext.ops.boundary import checks

# In place of an address: a forward pass looks closer. It compares what the buffer holds with a copy, as no counter tells who
# writes it.
BY_CONTENT = -1

# One index that is less by 1 may be any change. So many, and no other changes, come of an average of models: 2 if every equal
# index is less by 1, too.
FEW, MANY = 2, 8

BATCHED = (
    "{}: expected one pattern for the whole batch, got a batch of patterns (torch.vmap over stacked buffers); call the models "
    "one after the other by functional_call, without vmap"
)
META = (
    "{}: expected the buffers on {} (as the weight), got {} on meta; load or pass them together with the weight, as in "
    "functional_call(model, {{**parameters, **buffers}}, x)"
)
UNTRACED = (
    "torch.jit.trace: expected a packed weight, got a dense one with a rule, of which a traced program would not notice that "
    "another one is loaded; use torch.export, or the layer's to_dense()"
)
WRITTEN = (
    "{}, after the buffers were written in place. If an average of models wrote them (EMA, SWA): indices cannot be averaged. "
    "Leave buffers out of the average, as AveragedModel does with use_buffers=False, and call Sparsifier.track(copy), by which "
    "a copy's pattern follows the model's. If they are right, call sync()"
)
ROUNDED = "pattern: expected indices, got the former ones of which some are less by 1, as rounding leaves averages"
UNSEEN = (
    "{}: expected a write that PyTorch counts, got another pattern by way of `.data` or numpy, which forward passes see in "
    "debug mode alone; write by `copy_` under torch.no_grad(), or call the layer's sync() after it"
)


class Binding:
    """Pattern, rule and operands of one state of a layer's buffers.

    Attributes:
        pattern: shares its tensors with the buffers.
        rule: the one that chose these positions of a dense weight; None: the weight is packed.
        operands: what kernels read.
        seen: of every buffer (name, tensor, version counter, address) as last looked at. A forward pass compares these alone.
        text: a copy of the rule's buffer; None: there is none.
        prepared_at: the operands' version counters.
    """

    __slots__ = ("_copies", "_layout", "_memory", "operands", "pattern", "prepared_at", "rule", "seen", "text")

    def __init__(
        self, layout: type[Layout], pattern: Pattern, rule: Rule | None, operands: Any, stored: dict[str, torch.Tensor]
    ) -> None:
        self._layout, self.pattern, self.rule, self.operands = layout, pattern, rule, operands
        self.look(stored)

    @lasting
    def look(self, stored: dict[str, torch.Tensor]) -> None:
        """Remembers the state of these buffers as the one that everything else belongs to."""
        self.seen = tuple((name, tensor, _version(tensor), _address(tensor)) for name, tensor in stored.items())
        # As long as the memory is held, no other tensor gets its address.
        self._memory = {name: tensor.detach() for name, tensor in stored.items()}
        compared = () if self.is_meta else self.seen
        self._copies = {name: tensor.clone() for name, tensor, _, address in compared if address == BY_CONTENT}
        self.text = stored["rule"].clone() if "rule" in stored else None
        self.prepared_at = tuple(tensor._version for tensor in self.operands)
        keep_operands(self._layout, self.pattern, self.operands)

    @property
    def stored(self) -> dict[str, torch.Tensor]:
        """{name: buffer} that it belongs to."""
        return {name: tensor for name, tensor, *_ in self.seen}

    @property
    def is_meta(self) -> bool:
        """Whether one of the buffers has no values."""
        return any(tensor.is_meta for _, tensor, *_ in self.seen)

    def holds(self, stored: dict[str, torch.Tensor]) -> bool:
        """Whether it belongs to these very tensors, whatever they hold now."""
        return len(stored) == len(self.seen) and all(
            stored.get(name) is tensor and _same_memory(tensor, self._memory[name]) for name, tensor, *_ in self.seen
        )

    def fits(self, stored: dict[str, torch.Tensor]) -> bool:
        """Whether other tensors could take the place of its own: what it was prepared for does not depend on values."""
        return all(tensor.shape == self._memory[name].shape for name, tensor in stored.items())

    def is_at(self, stored: dict[str, torch.Tensor]) -> bool:
        """`holds`, for the aliases by which compiled code may know the tensors."""
        return all(_same_memory(tensor, self._memory[name]) for name, tensor in stored.items())

    def is_behind(self) -> bool:
        """Whether a buffer was written since `look`.

        Raises:
            RuntimeError: in debug mode, if it was written where no counter sees it.
        """
        return any(_version(tensor) != version for _, tensor, version, _ in self.seen) or self._differs()

    def _differs(self) -> bool:
        """Whether a buffer whose writes are not counted holds something else than it did."""
        for name, copy in self._copies.items():
            tensor = self._memory[name]
            if not torch.equal(tensor, copy):
                if _is_counted(tensor):
                    raise RuntimeError(UNSEEN.format(name))
                return True
        return False


def _is_counted(tensor: torch.Tensor) -> bool:
    """Whether the tensor's version counter counts every write: not those of other processes, nor in inference mode."""
    return not tensor.is_inference() and not (tensor.is_cpu and tensor.is_shared())


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() if _is_counted(tensor) and not (tensor.is_meta or checks.DEBUG) else BY_CONTENT


def _same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.device == other.device and one.shape == other.shape and one.data_ptr() == other.data_ptr()


@lasting
def countable(tensor: torch.Tensor) -> torch.Tensor:
    """A copy if the tensor was made in inference mode, and so has no version counter to recognise writes by."""
    return tensor.clone() if tensor.is_inference() else tensor


def are_rounded(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Whether these integers are what an average (EMA) leaves, which may be a valid pattern: some are less by 1.

    Of equal ones, decay * i + (1 - decay) * i in floating point is i or a little less, which is cut off: for equal values
    alike. Of different ones many are cut. A change of few positions, by one column each, is neither.
    """
    common = [(tensor.flatten().long(), after[name].flatten().long()) for name, tensor in before.items()]
    if not common or any(one.shape != other.shape for one, other in common):
        return False
    old, new = (torch.cat(tensors) for tensors in zip(*common, strict=True))
    cut = old - new == 1
    count = int(cut.sum())
    if count < FEW or not torch.equal(new, old - cut.long()):
        return False
    return count >= MANY or not bool(torch.isin(old[cut], old[~cut]).any())
