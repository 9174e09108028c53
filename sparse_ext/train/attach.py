"""`Sparsifier.attach()`: the optimizer's own step calls the Sparsifier's, and its state dict holds the Sparsifier's state."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .sparsifier import Sparsifier

KEY = "sparse_ext"  # of the Sparsifier's state in an optimizer's state dict

_ATTACHED: weakref.WeakKeyDictionary[torch.optim.Optimizer, weakref.ref[Attachment]] = weakref.WeakKeyDictionary()


class Attachment:
    """The hooks by which an optimizer's state dict holds a Sparsifier's state. They keep the Sparsifier alive.

    Raises:
        ValueError: the optimizer has no hooks, or another Sparsifier is attached to it.
    """

    def __init__(self, sparsifier: Sparsifier, optimizer: torch.optim.Optimizer) -> None:
        if not hasattr(optimizer, "_optimizer_load_state_dict_post_hooks"):
            raise ValueError(
                f"attach: expected an optimizer with the hooks of torch.optim.Optimizer, got "
                f"{type(optimizer).__name__}, which has none; call step() after its step"
            )
        earlier = reference() if (reference := _ATTACHED.get(optimizer)) is not None else None
        if earlier is not None and earlier.in_use:
            raise ValueError(
                "attach: expected one Sparsifier for an optimizer, got a second one; give one Sparsifier both methods, "
                "{'encoder.*': RigL(), '*': SET()}"
            )
        if earlier is not None:
            earlier.end()
        self.sparsifier: Sparsifier = sparsifier
        self._arrived: dict[str, Any] | None = None
        self._handles = [
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._take_out),
            optimizer.register_load_state_dict_post_hook(self._load),
        ]
        _ATTACHED[optimizer] = weakref.ref(self)

    @property
    def in_use(self) -> bool:
        """Whether no later Sparsifier trains one of the layers."""
        return self.sparsifier.is_current

    def end(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def _save(self, _: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        state_dict[KEY] = self.sparsifier.state_dict()

    def _take_out(self, _: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Refuses a state that the Sparsifier refuses before the optimizer has loaded anything."""
        self._arrived = state_dict.get(KEY)
        if self._arrived is not None:
            self.sparsifier.check_state(self._arrived)
        return {key: value for key, value in state_dict.items() if key != KEY}

    def _load(self, _: torch.optim.Optimizer) -> None:
        """After the optimizer's own: the Sparsifier may have to bring layers, and with them that state, into another form."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            self.sparsifier.load_state_dict(arrived)
