"""Copying, reading and a dense product in Triton: what they give, and that nothing else is written."""

import pytest

from kernels.cpu import KernelError

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels.gpu import controls  # noqa: E402

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
GUARD = 64


def whole(*shape, dtype=torch.float32, seed=0):
    """Whole numbers from 1 to 4 with signs: sums of some thousand products of two are exact in any order."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (numbers + numbers.sign()).clamp(-4, 4).round().to(dtype)


def test_a_copy_has_all_bytes_and_no_more(triton_device):
    for words in (1, controls.COPY_WORDS, 3 * controls.COPY_WORDS + 5):
        source = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32)
        room = torch.full((words + 2 * GUARD,), 77, dtype=torch.int32, device=triton_device)
        controls.copy(source.to(triton_device), room[GUARD:-GUARD])
        assert torch.equal(room[GUARD:-GUARD].cpu(), source)
        assert (room[:GUARD] == 77).all()
        assert (room[-GUARD:] == 77).all()


def test_a_copy_takes_tensors_of_any_type(triton_device):
    source = whole(6, 10, dtype=torch.bfloat16).to(triton_device)
    out = torch.full_like(source, torch.nan)
    controls.copy(source, out)
    assert torch.equal(out, source)


def test_every_word_is_read_once(triton_device, monkeypatch):
    monkeypatch.setattr(controls, "READ_PROGRAMS", 3)
    for words in (1, controls.COPY_WORDS, 7 * controls.COPY_WORDS + 5):
        source = torch.randint(-(2**31), 2**31 - 1, (words,), dtype=torch.int32)
        room = torch.full((words + 2 * GUARD,), 77, dtype=torch.int32, device=triton_device)
        room[GUARD:-GUARD] = source.to(triton_device)
        sums = controls.read(room[GUARD:-GUARD])
        assert len(sums) <= 3
        assert (int(sums.long().sum()) - int(source.long().sum())) % 2**32 == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dense_product_is_that_of_torch(dtype, triton_device):
    turn = DTYPES.index(dtype)
    for tokens, n, k, parts in ((1, 9, 600, 2), (turn + 2, 5, 70, None)):
        x, weight, bias = whole(tokens, k, dtype=DTYPES[turn - 1]), whole(n, k, dtype=dtype), whole(n, seed=1)
        room = torch.full((tokens * n + 2 * GUARD,), torch.nan, device=triton_device)
        out = room[GUARD:-GUARD].view(tokens, n)
        around = torch.full((n * k + 2 * GUARD,), torch.nan, dtype=dtype, device=triton_device)
        guarded = around[GUARD:-GUARD].view(n, k).copy_(weight)
        controls.dense(
            x.to(triton_device), guarded, out, bias=bias.to(triton_device) if turn else None, n_parts=parts
        )
        want = x.float() @ weight.float().T + (bias if turn else 0)
        assert torch.equal(out.cpu(), want)
        assert want.any(dim=1).all()
        assert room[:GUARD].isnan().all()
        assert room[-GUARD:].isnan().all()


def test_what_no_control_takes_is_refused(triton_device):
    with pytest.raises(KernelError, match=r"out is torch.float16 \(4,\): expected torch.float32 \(4,\)"):
        controls.copy(torch.ones(4), torch.ones(4, dtype=torch.float16))
    for n_bytes in (0, 6):
        with pytest.raises(KernelError, match=f"source has {n_bytes} bytes: expected a multiple of 4"):
            controls.read(torch.zeros(n_bytes, dtype=torch.uint8))
    with pytest.raises(KernelError, match="x has 5 tokens: expected 1 to 4"):
        controls.dense(torch.ones(5, 4), torch.ones(3, 4), torch.ones(5, 3))
