"""Whether there is a CUDA device, and why not."""


def problem() -> str:
    """Say why no CUDA device can be used; empty when one can."""
    try:
        import torch
    except ImportError:
        return "no CUDA device can be reached: torch is not installed (pip install 'nmsim[gpu]')"
    if not torch.cuda.is_available():
        return f"no CUDA device found (torch {torch.__version__}); nothing was measured, nothing written"
    return ""


def name() -> str:
    """What the first CUDA device calls itself; there must be one."""
    import torch

    return torch.cuda.get_device_name(0)
