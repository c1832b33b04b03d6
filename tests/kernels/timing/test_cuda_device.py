"""What is asked of nvidia-smi, by scripts that stand for it, and how refused work is told."""

import pytest

from kernels.calibrate import cuda as calibration_cuda
from kernels.timing import cuda_device
from kernels.timing.gate import GateError, RefusedError
from kernels.timing.rounds import DeviceLostError
from nmsim.errors import SpecError


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put a script in the place of nvidia-smi."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(text):
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    return put


def test_nvidia_smi_is_asked_of_the_first_device(smi):
    smi('echo "$@"')
    assert cuda_device.told("driver_version") == (
        "--id=0 --query-gpu=driver_version --format=csv,noheader,nounits"
    )


@pytest.mark.parametrize("text", [None, "echo 570.1; exit 9", "exec /bin/sleep 60"])
def test_an_nvidia_smi_that_is_missing_fails_or_hangs_says_nothing(smi, monkeypatch, text):
    monkeypatch.setattr(cuda_device, "ANSWER_S", 0.3)
    if text:
        smi(text)
    assert cuda_device.told("driver_version") == ""


class Properties:
    """A device whose clock torch does not tell."""

    name = "Pretended GPU"


@pytest.mark.parametrize(("text", "said"), [("exit 9", "''"), ("echo '[N/A]'", r"'\[N/A\]'")])
def test_a_clock_that_nobody_tells_is_one_clear_error(smi, text, said):
    smi("echo 1980")
    assert calibration_cuda._clock_hz(Properties) == 1.98e9
    smi(text)
    with pytest.raises(
        SpecError, match=f"clock of Pretended GPU: torch does not report it and nvidia-smi says {said}"
    ):
        calibration_cuda._clock_hz(Properties)


def lost():
    raise RuntimeError("CUDA error: unspecified launch failure\nstack")


def test_refused_work_is_one_line():
    for problem in (RuntimeError("needs compute capability 8\nstack"), GateError("no")):
        with pytest.raises(RefusedError) as caught, cuda_device.guarded("ours", int, cuda_device.refusals()):
            raise problem
        assert str(caught.value) == f"{type(problem).__name__}: {problem}".splitlines()[0]
    with pytest.raises(RefusedError, match="^RuntimeError: no more was said$"), guarded_from_faults():
        raise RuntimeError


def guarded_from_faults():
    return cuda_device.guarded("ours", int, cuda_device.faults())


def test_a_device_that_works_no_more_is_told_apart():
    with pytest.raises(DeviceLostError) as caught, cuda_device.guarded("ours", lost, cuda_device.faults()):
        raise RuntimeError("no")
    assert str(caught.value) == (
        "ours: RuntimeError: no; the CUDA context of this process is lost (RuntimeError: CUDA error: unspecified launch "
        "failure)"
    )


def test_our_own_errors_in_a_gate_and_errors_of_the_program_pass():
    for problem in (GateError("wrong"), TypeError("a slip")):
        with pytest.raises(type(problem)), cuda_device.guarded("ours", lost, cuda_device.faults()):
            raise problem
