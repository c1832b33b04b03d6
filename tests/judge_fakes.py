"""Models that answer what a test wants, and rows to judge: `from judge_fakes import measurement, model_of`."""

import pandas as pd

from nmsim.rows import Measurement
from validate.judge.join import ANSWER_COLUMNS

LITERATURE_HEADER = (
    "gpu,kernel_library,pattern,dtype,M,N,K,batch_phase,dense_baseline,dense_time_or_tflops,"
    "sparse_time_or_tflops,speedup,source_url,note"
)


def measurement(**changes) -> Measurement:
    """A published row of 100 us dense and 50 us sparse on an H200, with changes."""
    fields = {
        "machine": "h200",
        "kernel": "cuSPARSELt",
        "M": 64,
        "N": 4096,
        "K": 4096,
        "phase": "decode",
        "dtype": "bf16",
        "pattern": "2:4",
        "baseline": "cuBLASLt",
        "l2_state": "",
        "sparse_time_s": 50e-6,
        "dense_time_s": 100e-6,
        "speedup_vs_dense": 2.0,
    }
    return Measurement(**(fields | changes))


def model_of(
    dense_time_s=100e-6,
    sparse_time_s=50e-6,
    *,
    width=0.1,
    bound_share=0.5,
    dense_bytes=64e6,
    sparse_bytes=48e6,
    seen=None,
):
    """A model that always answers the same; calls are noted in the list `seen`."""

    def predict_rows(inputs, hardware, *, held_out=False):
        if seen is not None:
            seen.append((hardware.id, held_out, inputs))
        speedup = dense_time_s / sparse_time_s
        answer = {
            "predicted_dense_time_s": dense_time_s,
            "predicted_sparse_time_s": sparse_time_s,
            "predicted_speedup_vs_dense": speedup,
            "predicted_speedup_low": speedup * (1 - width),
            "predicted_speedup_high": speedup * (1 + width),
            "bound_dense_time_s": bound_share * dense_time_s,
            "bound_sparse_time_s": bound_share * sparse_time_s,
            "dense_bytes": dense_bytes,
            "sparse_bytes": sparse_bytes,
            "extrapolates": False,
            "family": "fake",
        }
        return pd.DataFrame([answer] * len(inputs), columns=list(ANSWER_COLUMNS))

    return predict_rows


def literature_line(**changes) -> str:
    """A line of a literature table, with changes."""
    cells = {
        "gpu": "RTX 4090",
        "kernel_library": "cuSPARSELt",
        "pattern": "2:4",
        "dtype": "BF16",
        "M": "64",
        "N": "4096.0",
        "K": "4096.0",
        "batch_phase": "decode/small-batch M=64",
        "dense_baseline": "cuBLASLt",
        "dense_time_or_tflops": "30.0 us",
        "sparse_time_or_tflops": "20.0 us",
        "speedup": "1.5",
        "source_url": "https://example.org/rows",
        "note": "",
    } | changes
    return ",".join(f'"{cells[name]}"' for name in LITERATURE_HEADER.split(","))


def write_literature(path, *lines, header=LITERATURE_HEADER):
    """Write a literature table of these lines."""
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path
