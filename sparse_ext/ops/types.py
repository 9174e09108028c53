"""`Pattern`: where a layer's non-zeros are, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import csr, regrow
from .checks import check_pattern

# Columns fit 16 bits up to here; the kernels then read half the index bytes.
MAX_16BIT = 1 << 16


@dataclass(frozen=True, eq=False)
class Pattern:
    """The positions of a CSR matrix's entries and everything derived from them.

    All tensors are preallocated and rewritten in place by `write_`, so addresses and shapes survive every change: CUDA
    graphs and compiled code stay valid. Entries behind `row_ptr[rows]` are unused.

    Attributes:
        rows, cols: the matrix's shape.
        row_ptr: int32 [rows + 1]. What is stored, with
        col_idx: int32 [capacity], ascending inside a row. All below is derived from the two, and all that kernels read:
        offsets: int32 [rows + 1], a copy of row_ptr, so that whoever writes the stored tensors (DDP broadcasts them before
            every forward) never touches what a backward pass still needs;
        columns: uint16 [capacity] where cols <= 65536, else int32, a copy of col_idx;
        col_ptr: int32 [cols + 1], the transposed view, with
        row_ids: uint16 or int32 [capacity] and
        slot: int32 [capacity], the index of each transposed entry's value. Values are stored once.
    """

    rows: int
    cols: int
    row_ptr: torch.Tensor
    col_idx: torch.Tensor
    offsets: torch.Tensor
    columns: torch.Tensor
    col_ptr: torch.Tensor
    row_ids: torch.Tensor
    slot: torch.Tensor

    @property
    def derived(self) -> tuple[torch.Tensor, ...]:
        """What kernels read, in the order of the fields."""
        return self.offsets, self.columns, self.col_ptr, self.row_ids, self.slot

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of them, in the order of the fields."""
        return self.row_ptr, self.col_idx, *self.derived

    @staticmethod
    def of_derived(rows: int, cols: int, *derived: torch.Tensor) -> Pattern:
        """As much of a pattern as a layout's products need."""
        offsets, columns, *_ = derived
        return Pattern(rows, cols, offsets, columns, *derived)

    @property
    def capacity(self) -> int:
        return self.col_idx.shape[0]

    @property
    def nnz(self) -> int:
        """Number of entries in use. Reads one element: synchronises on CUDA."""
        return int(self.row_ptr[-1])

    @staticmethod
    def around(row_ptr: torch.Tensor, col_idx: torch.Tensor, cols: int) -> Pattern:
        """The pattern that these two tensors hold, after reading every index; allocates what is derived and fills it."""
        if not row_ptr.is_meta:
            check_pattern("pattern", row_ptr, col_idx, row_ptr.numel() - 1, cols)

        def index(size: int, largest: int) -> torch.Tensor:
            dtype = torch.uint16 if largest <= MAX_16BIT else torch.int32
            return torch.empty(size, dtype=dtype, device=col_idx.device)

        rows, capacity = row_ptr.numel() - 1, col_idx.numel()
        pattern = Pattern(
            rows=rows,
            cols=cols,
            row_ptr=row_ptr,
            col_idx=col_idx,
            offsets=torch.empty_like(row_ptr),
            columns=index(capacity, cols),
            col_ptr=row_ptr.new_empty(cols + 1),
            row_ids=index(capacity, rows),
            slot=torch.empty_like(col_idx),
        )
        pattern.derive_()
        return pattern

    @staticmethod
    def from_mask(mask: torch.Tensor, capacity: int | None = None) -> Pattern:
        """The pattern of a boolean mask [rows, cols], with room for `capacity` (default: its own count) entries."""
        row_ptr, col_idx = csr.csr_from_mask(mask, int(mask.sum()) if capacity is None else capacity)
        return Pattern.around(row_ptr, col_idx, mask.shape[1])

    @staticmethod
    def random(rows: int, cols: int, nnz: int, seed: int, device: torch.device | str = "cpu") -> Pattern:
        """`nnz` positions drawn without replacement from the Philox stream `seed`, the same on every device."""
        row_ptr = torch.zeros(rows + 1, dtype=torch.int32, device=device)
        col_idx = torch.zeros(nnz, dtype=torch.int32, device=device)
        row_ptr, col_idx, _ = regrow.regrow(col_idx.float(), row_ptr, col_idx, cols, None, seed, 0, nnz)
        return Pattern.around(row_ptr, col_idx, cols)

    def write_(self, row_ptr: torch.Tensor, col_idx: torch.Tensor) -> None:
        """Takes over another pattern of the same shape, in place."""
        self.row_ptr.copy_(row_ptr)
        self.col_idx.copy_(col_idx)
        self.derive_()

    def derive_(self) -> None:
        """Recomputes, in place, everything derived from row_ptr and col_idx."""
        if self.row_ptr.is_meta:
            return
        col_ptr, row_ids, slot = csr.csr_transpose(self.row_ptr, self.col_idx, self.cols)
        for tensor, value in zip(self.derived, (self.row_ptr, self.col_idx, col_ptr, row_ids, slot), strict=True):
            tensor.copy_(value)

    def versions(self) -> tuple[int, int]:
        """How often row_ptr and col_idx were written in place, as autograd counts."""
        return self.row_ptr._version, self.col_idx._version

    def catch_up_(self) -> bool:
        """`derive_`, unless row_ptr and col_idx are still those that were derived from; whether it was needed."""
        same = torch.equal(self.offsets, self.row_ptr) and torch.equal(self.columns.to(torch.int32), self.col_idx)
        if not same:
            check_pattern("pattern", self.row_ptr, self.col_idx, self.rows, self.cols)
            self.derive_()
        return not same

    def mask(self) -> torch.Tensor:
        """Boolean [rows, cols], True at the entries."""
        ones = torch.ones(self.capacity, dtype=torch.float32, device=self.col_idx.device)
        return csr.csr_unpack(ones, self.row_ptr, self.col_idx, self.cols).bool()

    def linear_index(self) -> torch.Tensor:
        """int64 [nnz]: r * cols + c of every entry, ascending."""
        counts = self.row_ptr.diff().long()
        rows = torch.repeat_interleave(torch.arange(self.rows, device=counts.device), counts)
        return rows * self.cols + self.col_idx[: rows.numel()].long()
