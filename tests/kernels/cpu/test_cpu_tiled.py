"""Weights in the tiled code: stored as nmsim packs them, and multiplied as weights of another code are, bit for bit."""

import numpy as np
import pytest

import nmsim
from kernels import cpu
from kernels.cpu import compiled
from kernels.stored.errors import KernelError
from kernels.stored.rows import kernel_format
from nmsim.errors import NmsimError
from nmsim.packing import parse

PATTERNS = ("1:2", "2:4", "4:8", "3:8", "8:16", "4:16", "16:32", "9:32")


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("pattern", PATTERNS)
def test_products_are_those_of_combinatorial_codes(pattern: str, isa: str) -> None:
    rng = np.random.default_rng(7)
    dense = rng.standard_normal((9, 200)).astype(np.float32)
    tiled, ranked = (cpu.compress(dense, f"{pattern}/{name}") for name in ("tiled", "combinatorial"))
    assert not np.array_equal(tiled.metadata, ranked.metadata) or pattern in ("1:2",)
    for tokens in (1, 3, 17):
        x = rng.standard_normal((tokens, 200)).astype(np.float32)
        assert np.array_equal(cpu.matmul(x, tiled, isa=isa), cpu.matmul(x, ranked, isa=isa))


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "16:32"])
def test_what_is_stored_is_what_nmsim_packs(pattern: str) -> None:
    dense = np.random.default_rng(8).standard_normal((4, 64)).astype(np.float32)
    stored = cpu.compress(dense, f"{pattern}/tiled")
    packed = nmsim.compress(dense, f"{pattern}/tiled/power_of_two")
    assert str(stored.format.packing) == str(parse("power_of_two"))
    assert stored.metadata.tobytes() == packed.metadata.tobytes()
    assert np.array_equal(cpu.decompress(stored), nmsim.decompress(packed))


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "8:16"])
def test_what_avx512_does_reads_tiled_codes_in_generic_instructions(pattern: str) -> None:
    rng = np.random.default_rng(9)
    dense, x = (
        rng.standard_normal((7, 100)).astype(np.float32),
        rng.standard_normal((3, 100)).astype(np.float32),
    )
    outs = []
    for name in ("tiled", "combinatorial"):
        outs.append(np.empty((7, 3), np.float32))
        compiled.sparse(cpu.compress(dense, f"{pattern}/{name}"), x, "generic")(slice(0, 7), outs[-1])
    assert np.array_equal(outs[0], outs[1])


def test_groups_without_halves_are_refused() -> None:
    with pytest.raises(NmsimError, match="power of two"):
        cpu.compress(np.ones((2, 14), np.float32), "3:7/tiled")


def test_kernels_on_a_gpu_refuse_it() -> None:
    bits = pytest.importorskip("kernels.gpu.bits")
    with pytest.raises(
        KernelError, match="8:16/tiled/power_of_two: kernels on a GPU read one of bitmask, index"
    ):
        bits.about(kernel_format("8:16/tiled"), 64)
