"""Where Triton kernels run in tests: on a CUDA device, or where there is none on the CPU through Triton's interpreter.

Triton decides for a whole process, when it is imported: its own functions are then interpreted or compiled too. So the
variable is set here, before any test module is imported, and never where a device could be.
"""

import os
import sys
from pathlib import Path

import pytest

if "triton" not in sys.modules and not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request):
    """Give the device of tensors for Triton kernels; skip what this process cannot run."""
    torch = pytest.importorskip("torch")
    triton = pytest.importorskip("triton")
    interpreted = bool(triton.knobs.runtime.interpret)
    if request.param == "interpreter":
        if not interpreted:
            pytest.skip(
                "Triton compiles in this process (TRITON_INTERPRET is not set): it cannot interpret too"
            )
        return torch.device("cpu")
    if interpreted or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device that torch finds, and TRITON_INTERPRET not set")
    return torch.device("cuda")


@pytest.fixture
def gpu_calls(triton_device, monkeypatch):
    """Send public calls to the GPU kernels: give the device, and a list of the modules of kernels that they ask for.

    Where there is no CUDA device, tensors in main memory are said to be where the GPU kernels work, and all else is as it is.
    """
    from kernels.ops import dispatch

    if triton_device.type == "cpu":
        monkeypatch.setattr(dispatch, "serves", lambda tensor: tensor.device.type == "cpu")
    asked, module = [], dispatch.module
    monkeypatch.setattr(dispatch, "module", lambda name: asked.append(name) or module(name))
    return triton_device, asked
