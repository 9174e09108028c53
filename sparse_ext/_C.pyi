# The compiled module, as csrc/bindings.cpp declares it; tests/test_stub.py compares the two. Only sparse_ext/ops imports it.
#
# Pointers are `tensor.data_ptr()`, 0 for "none". Every launcher ends in (device, where): where is the thread count in `cpu`,
# the stream handle in `cuda`. The `cuda` submodule is absent from builds without CUDA (`cuda_archs` is then "").
from types import ModuleType

version: str
cuda_archs: str

def random_u32(seed: int, i: int) -> int: ...

class _Launchers(ModuleType):
    @staticmethod
    def isa() -> str: ...
    @staticmethod
    def use_isa(name: str) -> bool: ...
    @staticmethod
    def csr_spmm(
        dtype: int,
        index16: bool,
        y: int,
        values: int,
        row_ptr: int,
        col_idx: int,
        slot: int,
        x: int,
        bias: int,
        relu: bool,
        rows: int,
        cols: int,
        capacity: int,
        tokens: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_spmm_workspace(rows: int, cols: int, capacity: int, tokens: int, acc_bytes: int, where: int, /) -> int: ...
    @staticmethod
    def csr_sddmm(
        dtype: int,
        index16: bool,
        dw: int,
        row_ptr: int,
        col_idx: int,
        dy: int,
        x: int,
        rows: int,
        cols: int,
        capacity: int,
        tokens: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_sddmm_workspace(rows: int, cols: int, capacity: int, tokens: int, acc_bytes: int, where: int, /) -> int: ...
    @staticmethod
    def csr_pack(
        dtype: int,
        index16: bool,
        values: int,
        row_ptr: int,
        col_idx: int,
        dense: int,
        rows: int,
        cols: int,
        capacity: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_unpack(
        dtype: int,
        index16: bool,
        dense: int,
        values: int,
        row_ptr: int,
        col_idx: int,
        rows: int,
        first_col: int,
        cols: int,
        capacity: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_from_mask(
        row_ptr: int,
        col_idx: int,
        mask: int,
        rows: int,
        cols: int,
        capacity: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_from_mask_workspace(rows: int, cols: int, where: int, /) -> int: ...
    @staticmethod
    def csr_transpose(
        col_ptr: int,
        row_idx: int,
        slot: int,
        row_ptr: int,
        col_idx: int,
        rows: int,
        cols: int,
        capacity: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def csr_transpose_workspace(rows: int, cols: int, capacity: int, where: int, /) -> int: ...
    @staticmethod
    def regrow_candidates(
        dtype: int,
        at_entry: int,
        score: int,
        position: int,
        count: int,
        row_ptr: int,
        col_idx: int,
        tile: int,
        first_row: int,
        tile_rows: int,
        seed: int,
        rows: int,
        cols: int,
        capacity: int,
        candidates: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def regrow_candidates_workspace(tile_rows: int, cols: int, candidates: int, acc_bytes: int, where: int, /) -> int: ...
    @staticmethod
    def regrow(
        dtype: int,
        new_row_ptr: int,
        new_col_idx: int,
        source: int,
        values: int,
        row_ptr: int,
        col_idx: int,
        at_entry: int,
        score: int,
        position: int,
        count: int,
        seed: int,
        drop: int,
        grow: int,
        rows: int,
        cols: int,
        capacity: int,
        candidates: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def regrow_workspace(rows: int, capacity: int, candidates: int, where: int, /) -> int: ...
    @staticmethod
    def nm24_pack(
        dtype: int,
        from_float32: bool,
        values: int,
        ids: int,
        values_t: int,
        ids_t: int,
        dense: int,
        rows: int,
        cols: int,
        choice: int,
        scale: float,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def nm24_unpack(
        dtype: int, dense: int, values: int, ids: int, rows: int, cols: int, device: int, where: int, /
    ) -> None: ...
    @staticmethod
    def nm24_gemm(
        dtype: int,
        y: int,
        values: int,
        ids: int,
        x: int,
        bias: int,
        relu: bool,
        rows: int,
        cols: int,
        tokens: int,
        workspace: int,
        device: int,
        where: int,
        /,
    ) -> None: ...
    @staticmethod
    def nm24_gemm_workspace(rows: int, cols: int, tokens: int, acc_bytes: int, where: int, /) -> int: ...
    @staticmethod
    def nm24_mvue(
        dtype: int, values_t: int, ids: int, dy: int, draw: int, rows: int, tokens: int, device: int, where: int, /
    ) -> None: ...
    @staticmethod
    def nm24_regrow(
        dtype: int,
        new_ids: int,
        source: int,
        ids: int,
        stays: int,
        score: int,
        seed: int,
        rows: int,
        cols: int,
        device: int,
        where: int,
        /,
    ) -> None: ...

class _Cpu(_Launchers): ...

class _Cuda(_Launchers):
    @staticmethod
    def device_count() -> int: ...
    @staticmethod
    def driver_version() -> int: ...
    @staticmethod
    def runtime_version() -> int: ...

cpu: _Cpu
cuda: _Cuda
