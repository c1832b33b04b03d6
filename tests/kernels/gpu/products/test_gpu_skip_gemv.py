"""The Triton kernel for one pruned token: the reference's numbers, and no row of the weight read in vain."""

import pytest

from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton_tensors import Room, between_nan, made  # noqa: E402

from kernels.gpu.movers import prune  # noqa: E402
from kernels.gpu.products import skip_gemv  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.rows import kernel_format, row_lengths  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:5", "1:1", "31:32", "4:4")
ENCODINGS = ("bitmask", "index", "combinatorial")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def product(values, metadata, weight, pattern, encoding, device, bias=None, **more):
    """Run the kernel over poison, the weight [K, N] between NaN: nothing outside the result is touched or of effect."""
    room = Room((1, weight.shape[1]), values.dtype, device)
    parts = between_nan(values, device), metadata.to(device), between_nan(weight, device)
    bias = None if bias is None else between_nan(bias, device)
    skip_gemv.launch(*parts, kernel_format(f"{pattern}/{encoding}"), room.tensor, bias=bias, **more)
    y = room.taken()
    assert not y.isnan().any()
    return y


def whole(*shape, dtype, seed=0):
    """Small whole numbers, none of them zero: their sums are exact in any order."""
    return made(*shape, seed=seed).round().to(dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_whole_numbers_give_the_numbers_of_the_reference_and_dropped_rows_have_no_effect(
    pattern, encoding, triton_device
):
    turn = PATTERNS.index(pattern) + ENCODINGS.index(encoding)
    dtype, (outputs, k) = DTYPES[turn % 3], ((3, 64), (70, 47), (9, 100))[turn // 2 % 3]
    x, weight = whole(1, k, dtype=dtype), whole(k, outputs, dtype=dtype, seed=1)
    values, metadata = naive.compress(x, f"{pattern}/{encoding}")
    want = naive.activations_linear(values, metadata, weight.T, f"{pattern}/{encoding}")
    assert want.float().abs().max() > 4
    weight[~naive.prune(x, Pattern.parse(pattern))[0]] = torch.nan
    assert torch.equal(product(values, metadata, weight, pattern, encoding, triton_device), want)


@pytest.mark.parametrize(("pattern", "dtype"), [("8:16", torch.float16), ("3:7", torch.float32)])
def test_parts_of_k_and_blocks_of_outputs_add_up_to_the_whole(pattern, dtype, triton_device):
    k, outputs = 200, skip_gemv.BLOCK_BYTES // dtype.itemsize + 5
    x, weight = whole(1, k, dtype=dtype), whole(k, outputs, dtype=dtype, seed=1)
    bias = made(outputs, dtype=dtype, seed=2)
    values, metadata = naive.compress(x, f"{pattern}/bitmask")
    want = naive.activations_linear(values, metadata, weight.T, f"{pattern}/bitmask", bias=bias.float())
    for n_parts in (None, 99):
        y = product(values, metadata, weight, pattern, "bitmask", triton_device, bias, n_parts=n_parts)
        assert torch.equal(y, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_as_the_pruning_kernel_packs_them(dtype, triton_device):
    k, pattern = 200, Pattern(8, 16)
    x, weight = made(1, k, dtype=dtype), made(k, 20, dtype=dtype, seed=1)
    values_columns, metadata_columns = row_lengths(kernel_format(f"{pattern}/bitmask"), k)
    values = torch.full((1, values_columns), torch.nan, dtype=dtype, device=triton_device)
    metadata = torch.full((1, metadata_columns), 0xFF, dtype=torch.uint8, device=triton_device)
    unused = torch.empty(2, 1, device=triton_device)
    prune.launch(
        x.to(triton_device),
        kernel_format(f"{pattern}/bitmask"),
        (values, metadata, unused[0], unused[1]),
        shift="none",
    )
    y = product(values, metadata, weight, "8:16", "bitmask", triton_device, n_parts=2)
    want = (x.where(naive.prune(x, pattern), 0).double() @ weight.double()).to(dtype)
    # 100 products of at most 25 in float32, then one rounding.
    tolerance = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    assert torch.allclose(y.double(), want.double(), rtol=tolerance, atol=1e-4)


def test_parts_are_added_in_order_and_rounded_once(triton_device):
    """Four groups of 2:4 whose products are what is added, each in a part of its own."""
    big = 2.0**24
    step = skip_gemv.constants(kernel_format("2:4/bitmask"), 4, torch.float32)["GROUPS"] * 4
    x, weight = torch.zeros(1, 4 * step), torch.zeros(4 * step, 2)
    x[0, ::step] = 1
    weight[::step] = torch.tensor([[big, 1.0], [1.0, 2.0**-11], [1.0, 0.0], [-big, 0.0]])
    values, metadata = naive.compress(x, "2:4/bitmask")
    bias = torch.tensor([3.0, 2.0**-12])
    y = product(values, metadata, weight, "2:4", "bitmask", triton_device, bias=bias, n_parts=4)
    # In float32, 2^24 + 1 is 2^24: backwards, both ones would be left. And the bias is added last.
    assert y.tolist() == [[3.0, 1.0 + 2.0**-11 + 2.0**-12]]


def test_one_wrong_value_shows(triton_device):
    weight = whole(40, 5, dtype=torch.float16)
    values, metadata = naive.compress(whole(1, 40, dtype=torch.float16, seed=1), "8:16/index")
    right = product(values, metadata, weight, "8:16", "index", triton_device)
    values[0, 9] += 1
    assert (product(values, metadata, weight, "8:16", "index", triton_device) != right).all()
