"""Where Triton kernels run in tests: on a CUDA device, or where there is none as compiled code on the emulator.

`TRITON_INTERPRET=1` has them run through Triton's interpreter instead. Triton decides between the two for a whole process, when
it is imported. Of each test that has many cases, one runs on the emulator by default: compiling all takes twenty minutes.
`make compiled-tests` runs all of them.
"""

import contextlib
import sys

import pytest


def interpreted():
    """Whether Triton interprets in this process."""
    return bool(sys.modules["triton"].knobs.runtime.interpret)


@pytest.fixture(scope="session", autouse=True)
def scalars_of_the_interpreter_are_numbers():
    """Have an array of one element count as a number. The interpreter of Triton 3.6 takes it for one, numpy 2.4 does not."""
    if "triton" not in sys.modules or not interpreted():
        yield
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        yield


@pytest.fixture(autouse=True)
def compiled_code_runs_here(request):
    """Send launches to the emulator, where Triton is there, no CUDA device is, and nobody asked for the interpreter."""
    with contextlib.ExitStack() as stack:
        if "triton" in sys.modules and not interpreted() and not sys.modules["torch"].cuda.is_available():
            from kernels.ptx import emulated

            stack.enter_context(emulated(capability=request.config.getoption("--capability"), seed=1))
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request):
    """Give the device of tensors for Triton kernels; skip what this process cannot run."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if request.param == "cpu":
        if torch.cuda.is_available() and not interpreted():
            pytest.skip("Triton compiles for the CUDA device in this process")
        return torch.device("cpu")
    if interpreted() or not torch.cuda.is_available():
        pytest.skip("needs a CUDA device that torch finds, and TRITON_INTERPRET not set")
    return torch.device("cuda")


@pytest.fixture
def gpu_calls(triton_device, monkeypatch):
    """Send public calls to the GPU kernels: give the device, and a list of the modules of kernels that they ask for.

    Without a CUDA device, tensors in main memory are said to be those of the GPU kernels. All else is as it is.
    """
    from kernels.ops import dispatch

    if triton_device.type == "cpu":
        monkeypatch.setattr(dispatch, "serves", lambda tensor: tensor.device.type == "cpu")
    asked, module = [], dispatch.module
    monkeypatch.setattr(
        dispatch, "module", lambda name: asked.append(name.rpartition(".")[2]) or module(name)
    )
    return triton_device, asked


def pytest_collection_modifyitems(config, items):
    """Keep one case of each test on the emulator: one of 8:16 if there is one, else the first."""
    if config.getoption("--all-compiled"):
        return
    cases = {}
    for item in items:
        on_cpu = getattr(item, "callspec", None) and item.callspec.params.get("triton_device") == "cpu"
        if on_cpu and len(item.callspec.params) > 1:
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    chosen = {next((item for item in same if "8:16" in item.nodeid), same[0]) for same in cases.values()}
    left_out = [item for same in cases.values() for item in same if item not in chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
