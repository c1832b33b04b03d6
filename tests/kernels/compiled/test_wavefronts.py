"""Wavefronts of L1, counted on the emulator: by hand for the decode kernel, whose addresses are known."""

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.compiled import count_gpu  # noqa: E402
from kernels.compiled.wavefronts import wavefronts  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402

pytestmark = pytest.mark.skipif(
    bool(triton.knobs.runtime.interpret), reason="Triton interprets in this process: it cannot compile too"
)


def test_the_decode_kernel_reads_what_its_order_says():
    (item,) = [
        row for row in count_gpu.counted() if row.subject.name == "gemv 8:16 index fp16, 1 token, parts of K"
    ]
    found = wavefronts(item.run, "gemv_kernel")
    # 512 bytes of values are four wavefronts and 128 of codes one; each of eight gathers meets one line of x.
    assert 13 <= found.least <= 14
    assert found.least <= found.most <= 14
    assert found.sectors >= (512 + 128) / 32
    assert found.launches == 1


def test_a_kernel_that_was_not_launched_is_an_error():
    with pytest.raises(KernelError, match="gemv_kernel was not launched: found nothing"):
        wavefronts(lambda: 0, "gemv_kernel")
