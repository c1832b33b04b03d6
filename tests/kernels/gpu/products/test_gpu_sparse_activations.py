"""The Triton kernel that multiplies packed tokens: the reference's numbers, and with pruning the golden model's."""

import numpy as np
import pytest

from kernels.cpu import KernelError
from nmsim.mitigation import Recipe, golden

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.gpu.movers import prune  # noqa: E402
from kernels.gpu.products import sparse_activations  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.stored.rows import kernel_format, row_lengths  # noqa: E402

PATTERNS = ("2:4", "4:8", "8:16", "16:32", "3:7", "1:1", "29:31")
ENCODINGS = ("bitmask", "index", "combinatorial")
GUARD = 64


def made(*shape, dtype=torch.float32, seed=0):
    """Numbers without a single zero."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (numbers + numbers.sign()).to(dtype)


def product(values, metadata, weight, pattern, encoding, device, **epilogue):
    """Run the kernel over poison, the weight between NaN: nothing outside the result is touched or of effect."""
    whole = torch.full((len(values) * len(weight) + 2 * GUARD,), torch.nan, dtype=values.dtype, device=device)
    out = whole[GUARD:-GUARD].view(len(values), len(weight))
    around = torch.full((weight.numel() + 2 * GUARD,), torch.nan, dtype=weight.dtype, device=device)
    guarded = around[GUARD:-GUARD].view(weight.shape).copy_(weight)
    parts = [values.to(device), metadata.to(device), guarded]
    moved = {name: part.to(device) for name, part in epilogue.items()}
    sparse_activations.launch(*parts, kernel_format(f"{pattern}/{encoding}"), out, **moved)
    assert whole[:GUARD].isnan().all()
    assert whole[-GUARD:].isnan().all()
    assert not out.isnan().any()
    return out.cpu()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_whole_numbers_give_the_numbers_of_the_reference(pattern, triton_device):
    types = (
        torch.float32,
        torch.float16,
        torch.float16 if triton.knobs.runtime.interpret else torch.bfloat16,
    )
    for encoding, dtype, (tokens, outputs, k) in zip(
        ENCODINGS, types, ((3, 5, 64), (17, 66, 47), (1, 9, 150)), strict=True
    ):
        # Sums of small whole numbers are exact in any order.
        x, weight = made(tokens, k).round().to(dtype), made(outputs, k, seed=1).round().to(dtype)
        values, metadata = naive.compress(x, f"{pattern}/{encoding}")
        y = product(values, metadata, weight, pattern, encoding, triton_device)
        assert torch.equal(y, naive.activations_linear(values, metadata, weight, f"{pattern}/{encoding}"))


def test_more_tokens_and_outputs_than_a_tile(triton_device):
    x = made(sparse_activations.TILE_TOKENS + 3, 40, dtype=torch.float16).round()
    weight = made(sparse_activations.TILE_OUTPUTS + 5, 40, dtype=torch.float16).round()
    values, metadata = naive.compress(x, "4:8/index")
    y = product(values, metadata, weight, "4:8", "index", triton_device)
    assert torch.equal(y, naive.activations_linear(values, metadata, weight, "4:8/index"))


@pytest.mark.parametrize("left_out", ["", "v", "eta", "scale", "bias"])
def test_the_epilogue_is_that_of_the_reference(left_out, triton_device):
    dtype = torch.float16 if left_out else torch.float32
    weight = made(7, 50, dtype=dtype)
    values, metadata = naive.compress(made(5, 50, dtype=dtype), "8:16/bitmask")
    epilogue = {
        "v": made(5, seed=1), "eta": made(5, seed=2), "row_sums": weight.float().sum(1),
        "scale": made(7, seed=3), "bias": made(7, seed=4),
    }  # fmt: skip
    epilogue.pop(left_out, None)
    y = product(values, metadata, weight, "8:16", "bitmask", triton_device, **epilogue)
    want = naive.activations_linear(values, metadata, weight, "8:16/bitmask", **epilogue)
    # Terms are at most some hundreds; float32 sums of 50, or a rounding to float16.
    assert torch.allclose(y.float(), want.float(), rtol=2e-3 if left_out else 1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("pattern", "recipe"),
    [
        ("2:4", Recipe()),
        ("4:8", Recipe(shift="mean", variance=True)),
        (
            "8:16",
            Recipe(
                shift="median", variance=True, scale=made(6, seed=8).numpy(), bias=made(6, seed=9).numpy()
            ),
        ),
        ("16:32", Recipe(shift=0.75)),
        ("3:7", Recipe(shift="mean", scale=made(6, seed=8).numpy())),
    ],
)
def test_pruning_and_product_together_are_the_golden_model(pattern, recipe, triton_device):
    tokens, outputs, k = 3, 6, 75
    x, weight, vector = made(tokens, k, seed=5) + 0.5, made(outputs, k, seed=6), made(k, seed=7)
    want = golden.linear(
        x.double().numpy(),
        weight.double().numpy(),
        pattern,
        recipe,
        criterion="channel_vector",
        vector=vector.numpy(),
    )
    shift = recipe.shift if isinstance(recipe.shift, str) else "constant"
    values_columns, metadata_columns = row_lengths(kernel_format(f"{pattern}/index"), k)
    out = (
        torch.full((tokens, values_columns), torch.nan, device=triton_device),
        torch.full((tokens, metadata_columns), 0xFF, dtype=torch.uint8, device=triton_device),
        torch.full((tokens,), torch.nan, device=triton_device),
        torch.full((tokens,), torch.nan, device=triton_device),
    )
    prune.launch(
        x.to(triton_device), kernel_format(f"{pattern}/index"), out,
        shift=shift, constant=0.75, vector=vector.to(triton_device), variance=recipe.variance,
    )  # fmt: skip
    epilogue = {"row_sums": weight.sum(1)} | {
        name: torch.from_numpy(part)
        for name in ("scale", "bias")
        if (part := getattr(recipe, name)) is not None
    }
    y = product(*out[:2], weight, pattern, "index", triton_device, eta=out[2], v=out[3], **epilogue)
    # Terms are below 20, sums of 75 of them in float32.
    assert np.allclose(y.double().numpy(), want, rtol=1e-5, atol=3e-4)
    assert np.abs(want).min() > 1e-2


def test_bfloat16_products_are_refused_where_they_would_be_wrong(triton_device, monkeypatch):
    values, metadata = naive.compress(made(2, 16, dtype=torch.bfloat16), "2:4/index")
    weight = made(3, 16, dtype=torch.bfloat16)
    if not triton.knobs.runtime.interpret:
        assert product(values, metadata, weight, "2:4", "index", triton_device).shape == (2, 3)
        monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(KernelError, match=r"torch.bfloat16, whose products Triton's interpreter gets wrong"):
        product(values, metadata, weight, "2:4", "index", triton_device)
