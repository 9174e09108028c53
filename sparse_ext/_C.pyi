# The compiled module, written by tools/stubs.py (`make stubs`). Only sparse_ext/ops imports it.
#
# Views are tuples of pointers and sizes (csrc/python/arguments.h), which sparse_ext/ops/boundary/views.py makes. A build
# without CUDA kernels lacks `cuda`, and its `cuda_archs` is "".
from types import ModuleType

cuda_archs: str
version: str

def random_u32(seed: int, i: int) -> int:
    """Element i of the Philox stream `seed`."""

class _Cpu(ModuleType):
    """CPU kernels; the last argument is the number of threads."""

    @staticmethod
    def csr_conv2d(
        y: int,
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        x: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_conv2d_grad_weight(
        dw: tuple[int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        dy: int,
        x: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_conv2d_grad_weight_workspace(
        dw: tuple[int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        threads: int,
    ) -> int: ...
    @staticmethod
    def csr_conv2d_t(
        dx: int,
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        dy: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_conv2d_t_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        threads: int,
    ) -> int: ...
    @staticmethod
    def csr_conv2d_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        threads: int,
    ) -> int: ...
    @staticmethod
    def csr_from_mask(
        out: tuple[int, int, int, bool, int, int, int], mask: tuple[int, int, int, int], threads: int
    ) -> None: ...
    @staticmethod
    def csr_pack(
        values: int, pattern: tuple[int, int, int, bool, int, int, int], dense: tuple[int, int, int, int], threads: int
    ) -> None: ...
    @staticmethod
    def csr_sddmm(
        dw: int,
        pattern: tuple[int, int, int, bool, int, int, int],
        dy: tuple[int, int, int, int],
        x: tuple[int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_sddmm_workspace(
        pattern: tuple[int, int, int, bool, int, int, int], x: tuple[int, int, int, int], threads: int
    ) -> int: ...
    @staticmethod
    def csr_spmm(
        y: tuple[int, int, int, int],
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        x: tuple[int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_spmm_t(
        dx: tuple[int, int, int, int],
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        dy: tuple[int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_spmm_t_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]], dy: tuple[int, int, int, int], threads: int
    ) -> int: ...
    @staticmethod
    def csr_spmm_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]], x: tuple[int, int, int, int], threads: int
    ) -> int: ...
    @staticmethod
    def csr_transpose(
        out: tuple[int, int, int, bool, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def csr_transpose_workspace(pattern: tuple[int, int, int, bool, int, int, int], threads: int) -> int: ...
    @staticmethod
    def csr_unpack(
        dense: tuple[int, int, int, int],
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        first_col: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def isa() -> str:
        """The instruction set in use: baseline, v3 (AVX2), v4 (AVX-512) or v4_bf16 (and AVX512-BF16)."""

    @staticmethod
    def masked_sddmm(
        dw: tuple[int, int, int, int],
        bits: int,
        dy: tuple[int, int, int, int],
        x: tuple[int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def masked_sddmm_workspace(dy: tuple[int, int, int, int], x: tuple[int, int, int, int], threads: int) -> int: ...
    @staticmethod
    def masked_select(
        out: tuple[int, int, int, int],
        matrix: tuple[int, int, int, int],
        bits: int,
        first_row: int,
        first_col: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def masked_spmm(
        y: tuple[int, int, int, int],
        w: tuple[int, int, int, int],
        bits: int,
        x: tuple[int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def masked_spmm_t(
        dx: tuple[int, int, int, int],
        w: tuple[int, int, int, int],
        bits: int,
        dy: tuple[int, int, int, int],
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def masked_spmm_t_workspace(w: tuple[int, int, int, int], dy: tuple[int, int, int, int], threads: int) -> int: ...
    @staticmethod
    def masked_spmm_workspace(w: tuple[int, int, int, int], x: tuple[int, int, int, int], threads: int) -> int: ...
    @staticmethod
    def nm24_gemm(
        y: tuple[int, int, int, int],
        w: tuple[int, int, int, int, int],
        x: tuple[int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def nm24_gemm_workspace(w: tuple[int, int, int, int, int], x: tuple[int, int, int, int], threads: int) -> int: ...
    @staticmethod
    def nm24_mvue(wt: tuple[int, int, int, int, int], dy: tuple[int, int, int, int], rng: int, threads: int) -> None: ...
    @staticmethod
    def nm24_pack(
        w: tuple[int, int, int, int, int],
        wt: tuple[int, int, int, int, int],
        dense: tuple[int, int, int, int],
        choice: int,
        scale: float,
        threads: int,
    ) -> None: ...
    @staticmethod
    def nm24_regrow(
        grown: tuple[int, int, int, int, int],
        old: tuple[int, int, int, int, int],
        score: tuple[int, int, int, int],
        seed: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def nm24_unpack(dense: tuple[int, int, int, int], w: tuple[int, int, int, int, int], threads: int) -> None: ...
    @staticmethod
    def register_bytes() -> int:
        """Bytes of a vector register of that instruction set."""

    @staticmethod
    def regrow(
        out: tuple[int, int, int, bool, int, int, int],
        old: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        best: tuple[int, int, int, int, int, int],
        seed: int,
        drop: int,
        grow: int,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def regrow_candidates(
        best: tuple[int, int, int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        tile: tuple[int, int, int, int],
        first_row: int,
        seed: int,
        workspace: int,
        threads: int,
    ) -> None: ...
    @staticmethod
    def regrow_candidates_workspace(
        best: tuple[int, int, int, int, int, int], tile: tuple[int, int, int, int], threads: int
    ) -> int: ...
    @staticmethod
    def regrow_workspace(
        old: tuple[int, int, tuple[int, int, int, bool, int, int, int]], best: tuple[int, int, int, int, int, int], threads: int
    ) -> int: ...
    @staticmethod
    def use_isa(name: str) -> bool:
        """Chooses another one; False if this CPU does not have it."""

cpu: _Cpu

class _Cuda(ModuleType):
    """CUDA kernels; the last argument is (device, stream handle)."""

    @staticmethod
    def csr_conv2d(
        y: int,
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        x: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_conv2d_grad_weight(
        dw: tuple[int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        dy: int,
        x: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_conv2d_grad_weight_workspace(
        dw: tuple[int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        stream: tuple[int, int],
    ) -> int: ...
    @staticmethod
    def csr_conv2d_t(
        dx: int,
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        dy: int,
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_conv2d_t_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        stream: tuple[int, int],
    ) -> int: ...
    @staticmethod
    def csr_conv2d_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int, int],
        stream: tuple[int, int],
    ) -> int: ...
    @staticmethod
    def csr_from_mask(
        out: tuple[int, int, int, bool, int, int, int], mask: tuple[int, int, int, int], stream: tuple[int, int]
    ) -> None: ...
    @staticmethod
    def csr_pack(
        values: int,
        pattern: tuple[int, int, int, bool, int, int, int],
        dense: tuple[int, int, int, int],
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_sddmm(
        dw: int,
        pattern: tuple[int, int, int, bool, int, int, int],
        dy: tuple[int, int, int, int],
        x: tuple[int, int, int, int],
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_sddmm_workspace(
        pattern: tuple[int, int, int, bool, int, int, int], x: tuple[int, int, int, int], stream: tuple[int, int]
    ) -> int: ...
    @staticmethod
    def csr_spmm(
        y: tuple[int, int, int, int],
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        x: tuple[int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_spmm_workspace(
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]], x: tuple[int, int, int, int], stream: tuple[int, int]
    ) -> int: ...
    @staticmethod
    def csr_transpose(
        out: tuple[int, int, int, bool, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def csr_transpose_workspace(pattern: tuple[int, int, int, bool, int, int, int], stream: tuple[int, int]) -> int: ...
    @staticmethod
    def csr_unpack(
        dense: tuple[int, int, int, int],
        w: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        first_col: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def device_count() -> int:
        """Number of usable devices; 0 without a driver."""

    @staticmethod
    def driver_version() -> int:
        """13000 for CUDA 13.0; 0 without a driver."""

    @staticmethod
    def isa() -> str:
        """Whose kernels are in use: sm_80 (portable) or sm_90a (Hopper)."""

    @staticmethod
    def masked_select(
        out: tuple[int, int, int, int],
        matrix: tuple[int, int, int, int],
        bits: int,
        first_row: int,
        first_col: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def nm24_gemm(
        y: tuple[int, int, int, int],
        w: tuple[int, int, int, int, int],
        x: tuple[int, int, int, int],
        bias: int,
        relu: bool,
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def nm24_gemm_workspace(
        w: tuple[int, int, int, int, int], x: tuple[int, int, int, int], stream: tuple[int, int]
    ) -> int: ...
    @staticmethod
    def nm24_mvue(
        wt: tuple[int, int, int, int, int], dy: tuple[int, int, int, int], rng: int, stream: tuple[int, int]
    ) -> None: ...
    @staticmethod
    def nm24_pack(
        w: tuple[int, int, int, int, int],
        wt: tuple[int, int, int, int, int],
        dense: tuple[int, int, int, int],
        choice: int,
        scale: float,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def nm24_regrow(
        grown: tuple[int, int, int, int, int],
        old: tuple[int, int, int, int, int],
        score: tuple[int, int, int, int],
        seed: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def nm24_unpack(dense: tuple[int, int, int, int], w: tuple[int, int, int, int, int], stream: tuple[int, int]) -> None: ...
    @staticmethod
    def regrow(
        out: tuple[int, int, int, bool, int, int, int],
        old: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        best: tuple[int, int, int, int, int, int],
        seed: int,
        drop: int,
        grow: int,
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def regrow_candidates(
        best: tuple[int, int, int, int, int, int],
        pattern: tuple[int, int, int, bool, int, int, int],
        tile: tuple[int, int, int, int],
        first_row: int,
        seed: int,
        workspace: int,
        stream: tuple[int, int],
    ) -> None: ...
    @staticmethod
    def regrow_candidates_workspace(
        best: tuple[int, int, int, int, int, int], tile: tuple[int, int, int, int], stream: tuple[int, int]
    ) -> int: ...
    @staticmethod
    def regrow_workspace(
        old: tuple[int, int, tuple[int, int, int, bool, int, int, int]],
        best: tuple[int, int, int, int, int, int],
        stream: tuple[int, int],
    ) -> int: ...
    @staticmethod
    def runtime_version() -> int:
        """Version of the linked CUDA runtime."""

    @staticmethod
    def use_isa(name: str) -> bool:
        """Chooses others; False if the current device does not have them."""

cuda: _Cuda
