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


@pytest.mark.parametrize(
    ("subject", "least", "most"),
    [("8:16 index fp16, 1 token", 13, 15), ("8:16 index fp16, 4 tokens", 21, 27)],
    ids=["1", "4"],
)
def test_the_decode_kernel_reads_what_its_order_says(subject, least, most):
    """A warp takes 32 rows of one unit, with any Triton: spread over units it would need 60 and more.

    512 bytes of values are four wavefronts and 128 of codes one. Each of eight gathers meets one line of x, of four tokens 16
    places of 8 bytes. The end of the program, which adds up its warps, is up to three.
    """
    (item,) = [row for row in count_gpu.counted() if row.subject.name == f"gemv {subject}, parts of K"]
    found = wavefronts(item.run, "gemv_kernel")
    assert least <= found.least <= found.most <= most
    assert found.sectors >= (512 + 128) / 32
    assert found.launches == (1 if item.tokens == 1 else 2)


def test_a_kernel_that_was_not_launched_is_an_error():
    with pytest.raises(KernelError, match="gemv_kernel was not launched: found nothing"):
        wavefronts(lambda: 0, "gemv_kernel")
