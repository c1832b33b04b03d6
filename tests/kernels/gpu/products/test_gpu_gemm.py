"""The Triton kernels that multiply tokens with packed weights: the reference's numbers, whatever the tiles and parts."""

from pathlib import Path

import pytest

from kernels.cpu import KernelError

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from triton_tensors import Room, between_nan, made  # noqa: E402

from kernels.gpu.products import gemm  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.rows import kernel_format  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:5", "1:1", "31:32")
ENCODINGS = ("bitmask", "index", "combinatorial")


def product(x, values, metadata, pattern, encoding, device, *, how=gemm.launch_small, bias=None, **more):
    """Run a method over poison, tokens and weights between NaN: nothing outside the result is touched or of effect."""
    room = Room((len(x), len(values)), values.dtype, device)
    bias = None if bias is None else between_nan(bias, device)
    how(
        between_nan(x, device), between_nan(values, device), metadata.to(device), kernel_format(f"{pattern}/{encoding}"),
        room.tensor, bias=bias, **more,
    )  # fmt: skip
    y = room.taken()
    assert not y.isnan().any()
    return y


def whole(*shape, dtype, seed=0):
    """Small whole numbers, none of them zero: their sums are exact in any order."""
    return made(*shape, seed=seed).round().to(dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_whole_numbers_give_the_numbers_of_the_reference(pattern, encoding, triton_device):
    turn = PATTERNS.index(pattern) + ENCODINGS.index(encoding)
    half = torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16
    tokens, outputs, k = ((5, 3, 64), (4, 66, 33), (17, 9, 80))[turn % 3]
    dtype = (half, torch.float32, half)[turn % 3]
    weight = whole(outputs, k, dtype=dtype, seed=1)
    values, metadata = naive.compress(weight, f"{pattern}/{encoding}")
    x = whole(tokens, k, dtype=dtype)
    y = product(x, values, metadata, pattern, encoding, triton_device)
    want = naive.sparse_linear(x, values, metadata, f"{pattern}/{encoding}")
    assert torch.equal(y, want)
    assert want.abs().max() > 8


@pytest.mark.parametrize(
    ("pattern", "dtype"), [("8:16", torch.float16), ("16:32", torch.float16), ("3:7", torch.float32)]
)
def test_parts_of_k_add_up_to_the_whole(pattern, dtype, triton_device):
    k = 300
    weight = whole(6, k, dtype=dtype, seed=1)
    values, metadata = naive.compress(weight, f"{pattern}/bitmask")
    x, bias = whole(5, k, dtype=dtype), made(6, dtype=dtype, seed=2)
    want = naive.sparse_linear(x, values, metadata, f"{pattern}/bitmask", bias)
    for n_parts in (2, 99):
        y = product(x, values, metadata, pattern, "bitmask", triton_device, bias=bias, n_parts=n_parts)
        assert torch.equal(y, want)


def test_more_tokens_and_outputs_than_a_tile(triton_device):
    x = whole(gemm.TILE_TOKENS + 3, 40, dtype=torch.float16)
    values, metadata = naive.compress(
        whole(gemm.TILE_OUTPUTS + 5, 40, dtype=torch.float16, seed=1), "4:8/index"
    )
    bias = made(gemm.TILE_OUTPUTS + 5, dtype=torch.float16, seed=2)
    y = product(x, values, metadata, "4:8", "index", triton_device, bias=bias)
    assert torch.equal(y, naive.sparse_linear(x, values, metadata, "4:8/index", bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_parts", [1, 4])
def test_any_numbers_are_summed_in_float32_and_rounded_once(dtype, n_parts, triton_device):
    k = 530
    values, metadata = naive.compress(made(7, k, dtype=dtype, seed=1), "8:16/bitmask")
    x, bias = made(4, k, dtype=dtype), made(7, dtype=dtype, seed=2)
    y = product(x, values, metadata, "8:16", "bitmask", triton_device, bias=bias, n_parts=n_parts)
    dense = naive.decompress(values, metadata, "8:16/bitmask", k)
    want = (x.double() @ dense.double().T + bias.double()).to(dtype)
    # 265 products of at most 25 in float32, or half a unit in the last place of float16 and what float32 lost besides.
    assert torch.allclose(
        y.double(), want.double(), rtol=1e-5 if dtype == torch.float32 else 2**-10, atol=1e-3
    )


def test_methods_change_at_the_stated_count_of_tokens_and_agree(monkeypatch, triton_device):
    k, tokens = 48, 6
    values, metadata = naive.compress(whole(9, k, dtype=torch.float16, seed=1), "8:16/index")
    x, bias = whole(tokens, k, dtype=torch.float16), whole(9, dtype=torch.float16, seed=2)
    taken = []
    for name in ("launch_small", "launch_large"):
        method = getattr(gemm, name)
        monkeypatch.setattr(
            gemm, name, lambda *a, method=method, name=name, **b: (taken.append(name), method(*a, **b))
        )
    for bound in (tokens + 1, tokens):
        monkeypatch.setattr(gemm, "DENSE_TOKENS", bound)
        for part in (None, bias):
            y = product(x, values, metadata, "8:16", "index", triton_device, how=gemm.launch, bias=part)
            assert torch.equal(y, naive.sparse_linear(x, values, metadata, "8:16/index", part))
    assert taken == ["launch_small"] * 2 + ["launch_large"] * 2


def test_one_wrong_value_shows_in_its_output_only(triton_device):
    for pattern, dtype in (("8:16", torch.float16), ("3:7", torch.float32)):
        values, metadata = naive.compress(whole(5, 40, dtype=dtype, seed=1), f"{pattern}/bitmask")
        x = whole(4, 40, dtype=dtype)
        right = product(x, values, metadata, pattern, "bitmask", triton_device)
        values[3, 2] += 1
        wrong = product(x, values, metadata, pattern, "bitmask", triton_device)
        assert (right != wrong).nonzero()[:, 1].unique().tolist() == [3]


def test_bfloat16_products_are_refused_where_they_would_be_wrong(triton_device, monkeypatch):
    values, metadata = naive.compress(made(3, 16, dtype=torch.bfloat16), "2:4/index")
    x = made(2, 16, dtype=torch.bfloat16)
    if not triton.knobs.runtime.interpret:
        assert product(x, values, metadata, "2:4", "index", triton_device).shape == (2, 3)
        monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(KernelError, match=r"torch.bfloat16, whose products Triton's interpreter gets wrong"):
        product(x, values, metadata, "2:4", "index", triton_device)


def test_no_tokens_are_no_work(triton_device):
    values, metadata = naive.compress(made(3, 16), "2:4/index")
    for how in (gemm.launch, gemm.launch_small):
        assert product(
            torch.empty(0, 16), values, metadata, "2:4", "index", triton_device, how=how
        ).shape == (0, 3)


def test_the_pages_name_the_tokens_from_which_weights_are_decompressed():
    docs = Path(__file__).resolve().parents[4] / "docs"
    for name, words in {
        "how-to/measure.md": f"| other cases below {gemm.DENSE_TOKENS} tokens |",
        "how-to/use-in-torch.md": f"From {gemm.DENSE_TOKENS} tokens on the weights are decompressed",
        "explanation/gpu-kernels.md": f"| {gemm.DENSE_TOKENS} and more |",
    }.items():
        assert words in (docs / name).read_text(encoding="utf-8"), name
