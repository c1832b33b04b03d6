"""Kernels with numbers of their own: named in a campaign, refused where they are none, and right."""

import pytest

from nmsim.case import case_id

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels import ops  # noqa: E402
from kernels.measure import campaign  # noqa: E402
from kernels.measure.cuda.backend import CudaBackend  # noqa: E402
from kernels.measure.cuda.calls import PRODUCTS, named  # noqa: E402
from nmsim.errors import SpecError  # noqa: E402

TUNING = campaign.load("cuda-tuning")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu.gem", "kernel gpu.gem: expected one of gpu.gemv, "),
        ("gpu.gemv[warps=8", "; did you mean 'gpu.gemv'?"),
        ("gpu.gemv[]", "'': expected whole numbers of at least 1 for warps or n_parts, each once"),
        ("gpu.gemv[warps=0]", "'warps=0': expected whole numbers of at least 1"),
        ("gpu.gemv[warps=8,warps=8]", "'warps=8': expected "),
        ("gpu.gemv[tile_outputs=64]", "'tile_outputs=64': expected "),
        ("gpu.gemv[warps=8, n_parts=2]", "' n_parts=2': expected "),
        ("gpu.unpack_mm[n_parts=2]", "for nothing, it has no options"),
        ("gpu.activations_mm[n_parts=2]", "for nothing, it has no options"),
    ],
)
def test_a_name_that_is_none_is_refused(name, said):
    with pytest.raises(SpecError) as error:
        named(PRODUCTS, name)
    assert said in str(error.value)


def test_a_campaign_that_names_none_says_where(tmp_path):
    text = (campaign.CAMPAIGN_FOLDER / "cuda-tuning.toml").read_text().replace("warps=4,", "wraps=4,", 1)
    (tmp_path / "mine.toml").write_text(text)
    backend = CudaBackend(device="cpu", clock=object())
    with pytest.raises(
        SpecError, match=r"M=1 N=14336 .*: kernel gpu.gemv\[wraps=4,n_parts=1\]: 'wraps=4': expected"
    ):
        [backend.tasks(each) for each in campaign.load(tmp_path / "mine.toml").rounds]


def test_the_shipped_campaign_names_kernels_that_are_there():
    backend = CudaBackend(device="cpu", clock=object())
    tasks = [task for each in TUNING.rounds for task in backend.tasks(each)]
    names = {kernel for _, kernel in tasks}
    bases = {name.partition("[")[0] for name in names}
    # Each is timed beside what is shipped.
    assert bases <= names
    assert {base for base in bases if PRODUCTS[base].options} == {
        "gpu.gemv",
        "gpu.gemm_small",
        "gpu.mma",
        "gpu.skip_gemv",
    }
    assert len({(case_id(case), kernel) for case, kernel in tasks}) == len(tasks)


@pytest.mark.skipif("torch.cuda.is_available()", reason="the emulator's place is the CPU")
@pytest.mark.parametrize(
    "name",
    [
        "gpu.gemv[warps=8,n_parts=3]",
        "gpu.gemm_small[warps=8,tile_outputs=32,n_parts=2]",
        "gpu.skip_gemv[n_parts=2]",
    ],
)
def test_its_result_is_that_of_the_kernel(name):
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randint(-4, 5, (rows, 600), generator=generator).half() for rows in (1, 40))
    product = named(PRODUCTS, name)
    sparse = weight if product.sparse_operand == "weights" else x
    packed = ops.compress(sparse, "8:16/bitmask")
    dense = ops.decompress(packed)
    other = weight.T.contiguous() if product.k_major else weight
    found = product.build(packed, other, x).run()
    want = x @ dense.T if product.sparse_operand == "weights" else dense @ weight.T
    assert torch.equal(found, want)
