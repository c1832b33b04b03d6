"""The Triton kernel that makes weights in the order of the decode kernel dense: the plain reference's rows, bit for bit."""

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from triton_tensors import Room, any_bits, between_nan, made, same_bits  # noqa: E402

from kernels.gpu.movers import unshuffle  # noqa: E402
from kernels.ops import compress, for_decode, from_packed, naive  # noqa: E402
from kernels.stored.nm_weight import as_array  # noqa: E402
from kernels.stored.shuffled import PLANES, WARP_ROWS, ShuffledWeight  # noqa: E402
from nmsim import compress as pack  # noqa: E402

FORMATS = tuple(format.short for format in PLANES)


def dense_of(weight, device):
    """Make weights dense on a device, between guards, with NaN beside what is read."""
    room = Room(weight.shape, weight.values.dtype, device)
    values = between_nan(weight.values, device)
    moved = ShuffledWeight(values, weight.metadata.to(device), weight.format, weight.shape)
    unshuffle.launch(moved, room.tensor)
    return room.taken()


@pytest.mark.parametrize("format", FORMATS)
def test_bits_are_those_of_the_reference(format, triton_device):
    turn = FORMATS.index(format)
    for dtype, rows, k in ((torch.float16, 37, 85), (torch.bfloat16, 65, 64))[turn % 2 :]:
        dense = any_bits(rows, k, dtype=dtype, seed=turn).where(
            made(rows, k).abs() > 1.1, made(rows, k).to(dtype)
        )
        # Any bits but NaN and infinity, which cannot be pruned by magnitude.
        dense = dense.where(dense.isfinite(), torch.ones((), dtype=dtype))
        packed = from_packed(pack(as_array(dense), format))
        found = dense_of(for_decode(packed), triton_device)
        assert same_bits(found, naive.decompress(packed.values, packed.metadata, format, k))
        assert (found == 0).float().mean() > 0.4


def test_more_rows_and_columns_than_a_tile_and_whole_ones(triton_device):
    for rows, k in (
        (unshuffle.TILE_ROWS + WARP_ROWS + 1, unshuffle.TILE_ELEMS + 17),
        (unshuffle.TILE_ROWS, 2 * unshuffle.TILE_ELEMS),
    ):
        dense = made(rows, k, dtype=torch.float16)
        packed = compress(dense, "8:16/bitmask")
        found = dense_of(for_decode(packed), triton_device)
        assert same_bits(found, naive.decompress(packed.values, packed.metadata, "8:16/bitmask", k))


@pytest.mark.parametrize("encoding", ["index", "bitmask", "combinatorial"])
def test_every_mask_of_a_group_is_spread_to_its_own_places(encoding, triton_device):
    """All C(8, 4) masks of 4:8 along K, in each encoding."""
    masks = [word for word in range(256) if word.bit_count() == 4]
    keep = torch.tensor([[bool(word >> i & 1) for word in masks for i in range(8)]])
    dense = torch.arange(1, keep.numel() + 1).to(torch.float16)[None].where(keep, 0)
    weight = for_decode(compress(dense, f"4:8/{encoding}", mask=keep))
    assert torch.equal(dense_of(weight, triton_device), dense)


@pytest.mark.parametrize("format", ["8:16/combinatorial", "8:16/index", "16:32/index", "4:8/bitmask"])
def test_codes_that_no_mask_has_write_only_their_own_rows(format, triton_device):
    """On a CUDA device codes are not looked at: whatever they are, nothing is read or written elsewhere."""
    packed = compress(made(33, 64, dtype=torch.float16), format)
    right = for_decode(packed)
    wrong = right.metadata.clone()
    # The first unit of the last row.
    width_bytes = PLANES[right.format][0] // 8
    wrong[32 * width_bytes : 33 * width_bytes] = 0xFF
    found = dense_of(ShuffledWeight(right.values, wrong, right.format, right.shape), triton_device)
    want = naive.decompress(packed.values, packed.metadata, format, 64)
    assert same_bits(found[:32], want[:32])
    assert not torch.equal(found[32], want[32])
    assert torch.equal(found[32, 32:], want[32, 32:])
