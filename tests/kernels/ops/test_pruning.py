"""The mask of pruning made on a device: that of nmsim and of the reference, by every method."""

import itertools

import numpy as np
import pytest

import nmsim
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton_tensors import any_bits, made  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.ops import naive  # noqa: E402
from kernels.ops.pruning import by_rank, prune_on_device  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def device(gpu_calls):
    return gpu_calls[0]


def agree(mask, x, pattern, scores=None):
    """Compare a mask with two others, made by other code."""
    assert mask.dtype == torch.bool
    assert mask.is_contiguous()
    assert torch.equal(mask.cpu(), naive.prune(x, Pattern.parse(pattern), scores))
    ranked = None if scores is None else as_array(scores)
    assert np.array_equal(
        mask.cpu().numpy(), nmsim.prune(as_array(x), pattern, scores=ranked, bit_order=True)
    )


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "16:32", "3:7", "1:1", "1:32", "8:64", "5:33", "200:256"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_magnitudes_of_any_bits_are_ranked_as_on_the_cpu(device, dtype, pattern):
    for shape in ((3, 64), (2, 2, 37), (5,), (1, 300)):
        x = any_bits(*shape, dtype=dtype)
        agree(ops.prune(x.to(device), pattern), x, pattern)
        few = made(*shape, dtype=dtype).clamp(-2, 2).round()  # many are equal
        agree(ops.prune(few.to(device), pattern), few, pattern)


@pytest.mark.parametrize("pattern", ["2:4", "8:16", "3:7", "8:64", "1:1"])
def test_scores_of_any_type_and_sign_are_ranked_as_on_the_cpu(device, pattern):
    for of_x, of_scores in itertools.product(DTYPES, DTYPES):
        x = any_bits(3, 75, dtype=of_x)
        scores = any_bits(3, 75, dtype=of_scores, seed=1)
        scores = scores.where(scores.isfinite(), -torch.inf)
        scores[:, ::5] = torch.tensor([[0.0], [-0.0], [torch.inf]]).to(of_scores)
        scores[:, 1::5] = -scores[:, ::5]
        agree(ops.prune(x.to(device), pattern, scores=scores.to(device)), x, pattern, scores)
        few = made(3, 75, dtype=of_scores).round()
        agree(ops.prune(x.to(device), pattern, scores=few.to(device)), x, pattern, few)


def test_zeros_of_both_signs_are_equal_scores(device):
    x = torch.ones(2, 4, device=device)
    scores = torch.tensor([[-0.0, 0.0, -1.0, 0.0], [0.0, -0.0, 0.0, -torch.inf]], device=device)
    want = [[True, True, False, False]] * 2
    assert ops.prune(x, "2:4", scores=scores).tolist() == want


def test_what_fills_a_tail_is_below_the_lowest_key():
    lowest = torch.full((2, 5), torch.iinfo(torch.int32).min, dtype=torch.int32)
    assert by_rank(lowest, Pattern(1, 4)).tolist() == [[True, False, False, False, True]] * 2


def test_memory_order_and_gradients_do_not_matter(device):
    x, scores = made(40, 6).to(device).requires_grad_(), made(6, 40, seed=1).to(device)
    for given in (None, scores.T.contiguous().T):
        mask = ops.prune(x.T, "4:8", scores=given)
        assert not mask.requires_grad
        agree(mask, x.detach().cpu().T, "4:8", None if given is None else given.cpu())


def test_nothing_to_prune_is_no_work(gpu_calls):
    device, asked = gpu_calls
    for shape in ((0, 8), (3, 0), (0,)):
        x = torch.empty(shape, device=device)
        for scores in (None, x):
            assert ops.prune(x, "2:4", scores=scores).shape == shape
    assert asked == []


def test_what_the_cpu_refuses_is_refused(device):
    x = made(2, 3, 8).to(device)
    odd = x.clone()
    odd[1, 2, 3] = torch.nan
    with pytest.raises(PatternError, match=r"scores\[1, 2, 3\] is NaN: expected numbers that have an order"):
        ops.prune(x, "2:4", scores=odd)
    with pytest.raises(PatternError, match="a scalar has no axis to prune along"):
        ops.prune(x[0, 0, 0], "2:4")


def test_the_kernel_ranks_magnitudes_up_to_32_and_torch_all_else(gpu_calls):
    device, asked = gpu_calls
    x = made(2, 66).to(device)
    for pattern, scores in (("8:64", None), ("2:4", x)):
        prune_on_device(x, Pattern.parse(pattern), scores)
    assert asked == []
    prune_on_device(x, Pattern(16, 32), None)
    assert asked == ["prune"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graphs_hold_the_operator_for_any_number_of_tokens(device):
    def kept(x, scores):
        return x.where(ops.prune(x, "8:16"), 0) + x.where(ops.prune(x, "2:4", scores=scores), 0)

    compiled = torch.compile(kept, fullgraph=True, backend="aot_eager", dynamic=True)
    for leading in ((2,), (5,)):
        x, scores = made(*leading, 40).to(device), made(*leading, 40, seed=1).to(device)
        assert torch.equal(compiled(x, scores), kept(x, scores))
    for scores in (None, made(40, 3).T.to(device)):
        torch.library.opcheck(torch.ops.nmsim.prune.default, (made(3, 40).to(device), "8:16", scores))
