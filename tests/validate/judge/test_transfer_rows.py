"""Rows of transfers beside rows of products: the judge leaves them alone, and says so when it is given them."""

import pytest

from nmsim.errors import RowError
from nmsim.rows import measurement_file
from nmsim.rows.transfer import Transfer
from validate.judge import rows as row_files
from validate.judge.machine_names import Machines

ROW = Transfer(
    machine="h200", kernel="gpu.read", rows=64, columns=32, dtype="bf16", l2_state="cold", moved_bytes=4096, time_s=2e-6,
    time_s_p20=2e-6, time_s_p80=2e-6, baseline="gpu.copy", copy_bytes=4096, copy_time_s=3e-6, copy_time_s_p20=3e-6,
    copy_time_s_p80=3e-6, share_of_copy=1.5, share_of_copy_p20=1.5, share_of_copy_p80=1.5, reps=5, warmup=1, gate="pass",
)  # fmt: skip


def test_files_of_transfers_are_no_rows_of_our_own_campaigns(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MEASURED_FOLDER", tmp_path)
    measurement_file.append(tmp_path / "h200.transfers.csv", ROW)
    (tmp_path / "h200.csv").write_text("")
    assert row_files.own_files() == [tmp_path / "h200.csv"]


def test_a_file_of_transfers_is_refused_by_what_it_is(nmsim, tmp_path):
    file = tmp_path / "h200.transfers.csv"
    measurement_file.append(file, ROW)
    message = (
        f"{file}: rows of transfers (kernels that prune, pack, unpack or read), which nmsim measure writes beside those of "
        "products: no prediction is made for them, expected a file of products"
    )
    with pytest.raises(RowError) as caught:
        row_files.read_rows(file, Machines([]))
    assert str(caught.value) == message
    assert nmsim("validate", "--rows", file) == (2, "", f"nmsim: {message}\n")
