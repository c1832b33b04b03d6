"""What the CPU kernels refuse, and in which words."""

import re

import numpy as np
import pytest

import nmsim
from kernels import cpu
from kernels.compiled.count_cpu import instructions_per_group
from nmsim.errors import NmsimError

X = np.ones((2, 32), np.float32)
DENSE = np.ones((4, 32), np.float32)
W = cpu.compress(DENSE, "8:16")


def counted(format, dtype, tokens, isa):
    return instructions_per_group(format, dtype, tokens=tokens, isa=isa)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cpu.compress([[1.0]], "2:4"), "weights of type list: expected a numpy array [N, K]"),
        (lambda: cpu.compress(np.ones((2, 4)), "2:4"), "weights have dtype float64: expected one of float32, float16"),
        (lambda: cpu.compress(np.ones(4, np.float32), "2:4"), "weights have shape (4,): expected a matrix [N, K]"),
        (lambda: cpu.compress(np.ones((0, 4), np.float32), "2:4"), "weights have shape (0, 4): expected a matrix"),
        (lambda: cpu.compress(DENSE * np.float32(np.inf), "2:4"), "expected finite numbers"),
        (lambda: cpu.compress(DENSE, "16:64"), "pattern 16:64: kernels take M up to 32"),
        (lambda: cpu.compress(DENSE, "8:16/gap"), "encoding 'gap': kernels read one of bitmask, index, combinatorial"),
        (lambda: cpu.compress(DENSE, "8:16/index/power_of_two"), "packing power_of_two: kernels read codes of index packed as"),
        (lambda: cpu.compress(DENSE, "8:16", mask=np.ones((4, 32), bool)), "mask row 0, group 0 (elements 0 to 15) keeps 16"),
        (lambda: cpu.compress(DENSE, "8:16", mask=np.ones((4, 3), bool)), "mask is bool (4, 3): expected bool (4, 32)"),
        (lambda: cpu.from_packed(DENSE), "packed is a ndarray: expected a nmsim.PackedTensor"),
        (lambda: cpu.from_packed(nmsim.compress(DENSE, "2:4", axis=0)), "pruned along axis 0: expected a matrix [N, K]"),
        (lambda: cpu.from_packed(nmsim.compress(DENSE[0], "2:4")), "packed tensor of shape (32,)"),
        (lambda: cpu.from_packed(nmsim.compress(DENSE.astype(np.int8), "2:4")), "packed tensor of dtype int8"),
        (lambda: cpu.from_packed(nmsim.compress(DENSE, "2:4/gap:2")), "encoding 'gap:2'"),
        (lambda: cpu.decompress(DENSE), "weights of type ndarray: expected SparseWeights"),
        (lambda: cpu.matmul(X, DENSE), "weights of type ndarray: expected SparseWeights, as cpu.compress makes them"),
        (lambda: cpu.matmul([1.0], W), "x of type list: expected a numpy array [M, 32] or [32]"),
        (lambda: cpu.matmul(X[:, :31], W), "x has shape (2, 31): expected [M, 32] or [32], K of the weights"),
        (lambda: cpu.matmul(X[None], W), "x has shape (1, 2, 32)"),
        (lambda: cpu.matmul(X.astype(np.float64), W), "x has dtype float64: expected float32"),
        (lambda: cpu.matmul(X, W, threads=0), "threads=0 (type int): expected an int of at least 1"),
        (lambda: cpu.matmul(X, W, isa="sse2"), "isa='sse2': expected one of avx512, avx2, portable, or None for the best"),
        (lambda: cpu.matmul(X, W, out=np.ones((2, 4))), "out is float64 (2, 4): expected a float32 array (2, 4)"),
        (lambda: cpu.matmul(X, W, out=np.ones((4, 2), np.float32)), "out is float32 (4, 2): expected a float32 array (2, 4)"),
        (lambda: cpu.matmul(X, W, out=[1]), "out is list: expected a float32 array (2, 4)"),
        (lambda: cpu.matmul(X, W, out=np.ones((2, 8), np.float32)[:, ::2]), "out is read-only or not in C order"),
        (lambda: cpu.matmul(X, W, out=read_only(np.ones((2, 4), np.float32))), "out is read-only or not in C order"),
        (lambda: cpu.matmul(X[:, ::-1], W, out=X.reshape(-1)[:8].reshape(2, 4)), "out overlaps x: expected memory of its own"),
        (lambda: cpu.dense_matmul(X, DENSE[:, ::2]), "weights have strides (128, 8): expected an array in C order"),
        (lambda: cpu.dense_matmul(X, DENSE.astype(np.int32)), "weights have dtype int32"),
        (lambda: cpu.dense_matmul(X, DENSE[:, :16].copy()), "x has shape (2, 32): expected [M, 16] or [16]"),
        (lambda: counted("1:4/bitmask", "float32", 1, "avx2"), "1:4/bitmask: no compiled kernel reads it"),
        (lambda: counted("16:32/combinatorial", "float32", 1, "avx2"), "16:32/combinatorial/power_of_two: no compiled"),
        (lambda: counted("2:4/bitmask", "int8", 1, "avx2"), "dtype 'int8': expected one of float32"),
        (lambda: counted("2:4/bitmask", "float32", 17, "avx2"), "tokens=17: expected an int from 1 to 16"),
        (lambda: counted("2:4/bitmask", "float32", 1, "portable"), "isa='portable': expected one of avx2"),
    ],
)  # fmt: skip
def test_refusals_say_what_was_expected(call, message):
    with pytest.raises(NmsimError, match=re.escape(message)):
        call()


def test_the_environment_caps_the_instruction_set(monkeypatch):
    monkeypatch.setenv("NMSIM_CPU_ISA", "portable")
    assert cpu.instruction_sets() == ("portable",)
    assert cpu.matmul(X, W).shape == (2, 4)
    monkeypatch.setenv("NMSIM_CPU_ISA", "fast")
    with pytest.raises(NmsimError, match=r"NMSIM_CPU_ISA='fast': expected one of avx512, avx2, portable"):
        cpu.matmul(X, W)


def test_what_the_cpu_lacks_or_the_cap_leaves_out_is_refused(monkeypatch):
    monkeypatch.delenv("NMSIM_CPU_ISA", raising=False)
    usable = cpu.instruction_sets()
    assert usable[-1] == "portable"
    for isa in {"avx512", "avx2"} - set(usable):
        with pytest.raises(NmsimError, match=f"isa='{isa}': this CPU lacks it, expected one of {usable[0]}"):
            cpu.matmul(X, W, isa=isa)
    if len(usable) > 1:
        monkeypatch.setenv("NMSIM_CPU_ISA", "portable")
        with pytest.raises(NmsimError, match=f"isa='{usable[0]}': NMSIM_CPU_ISA=portable leaves it out"):
            cpu.matmul(X, W, isa=usable[0])


def test_codes_that_no_mask_has_are_refused():
    packed = nmsim.compress(DENSE, "8:16/combinatorial/power_of_two")
    packed.metadata[:2] = [0xFF, 0x3F]
    with pytest.raises(NmsimError, match="code 0 is 16383, which no mask has"):
        cpu.from_packed(packed)
