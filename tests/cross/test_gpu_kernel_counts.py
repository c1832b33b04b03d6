"""The counts of GPU kernels that the model carries are those of the kernels, and its cuts of K are near the kernels' own."""

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from hwmodels.counted import product  # noqa: E402
from hwmodels.counted.table import COUNTS_FILE, counted_kernels, triton_versions  # noqa: E402
from kernels.compiled import count_gpu  # noqa: E402
from kernels.compiled.pipes import ARCHITECTURES  # noqa: E402
from kernels.ops import decode  # noqa: E402

COMMAND = "python -m kernels.compiled.count_gpu hwmodels/data/gpu_kernels.csv counts anew"


def test_tokens_go_to_the_same_kernel_as_in_a_layer():
    assert product.LEAST_MATRIX_TOKENS == decode.LEAST_MATRIX_TOKENS


def test_every_counted_kernel_is_carried_for_every_architecture():
    assert tuple(COUNTS_FILE.read_text(encoding="utf-8").splitlines()[0].split(",")) == count_gpu.COLUMNS
    wanted = {
        (item.kernel, item.pattern, item.encoding, item.tokens, item.subject.warps, architecture)
        for item in count_gpu.counted()
        for architecture in ARCHITECTURES
    }
    for version in triton_versions():
        carried = [
            (row.kernel, row.pattern, row.encoding, row.tokens, row.warps, row.architecture)
            for row in counted_kernels()
            if row.triton == version
        ]
        assert len(carried) == len(set(carried))
        # All is counted for the GPU of the goals; for others as far as somebody ran it.
        assert {row for row in carried if row[-1] == 90} == {row for row in wanted if row[-1] == 90}, COMMAND
        assert set(carried) <= wanted, COMMAND


def test_the_counts_of_this_triton_are_carried():
    assert triton.__version__ in triton_versions(), COMMAND
