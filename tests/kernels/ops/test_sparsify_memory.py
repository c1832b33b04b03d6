"""`sparsify_` frees each dense layer before it packs the next one, and says what it is doing."""

import subprocess
import sys
import weakref

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from kernels.ops import NMLinear, sparsify_  # noqa: E402

LAYERS, ROWS, COLUMNS = 12, 1024, 4096
PEAK = f"""
import torch
from torch import nn
from kernels.ops import sparsify_

def status(name):
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

torch.manual_seed(0)
sparsify_(nn.Sequential(nn.Linear({COLUMNS}, {ROWS})), "8:16")  # what is compiled and imported once
model = nn.Sequential(*(nn.Linear({COLUMNS}, {ROWS}) for _ in range({LAYERS})))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark begins anew
before = status("VmRSS")
report = sparsify_(model, "8:16")
assert len(report.swapped) == {LAYERS}
print(before, status("VmHWM"))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_that_of_the_dense_model_and_one_layer():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-500:]
    before, peak = map(int, done.stdout.split())
    layer = 4 * ROWS * COLUMNS
    # Packed values and codes of one layer, and what packing works with, take no more than the layer itself.
    assert peak - before <= layer, (peak - before) / layer


def test_a_dense_layer_is_gone_before_the_next_one_is_packed():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)), nn.Sequential(nn.Linear(64, 32)))
    weights = [weakref.ref(layer.weight) for layer in (*model[:4], model[4][0])]
    said = []

    def progress(name, share):
        said.append((name, share))
        alive = [weight() is not None for weight in weights]
        assert alive == [place >= len(said) - 1 for place in range(5)]

    report = sparsify_(model, "8:16", progress=progress)
    assert [name for name, _ in said] == list(report.swapped) == ["0", "1", "2", "3", "4.0"]
    assert [share for _, share in said] == pytest.approx([place / 4.5 for place in range(5)])
    assert not any(weight() for weight in weights)


def test_a_lack_of_memory_names_the_layer_and_a_second_call_continues(monkeypatch):
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    made = NMLinear.from_linear

    def fails(linear, format, **rest):
        if linear is model[1]:
            raise MemoryError("no room")
        return made(linear, format, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(NMLinear, "from_linear", fails)
        with pytest.raises(
            MemoryError, match="^1: no memory to pack it; layers before it are packed: no room"
        ):
            sparsify_(model, "2:4")
    assert [type(layer) for layer in model] == [NMLinear, nn.Linear, nn.Linear]
    assert sparsify_(model, "2:4").swapped == ("1", "2")
