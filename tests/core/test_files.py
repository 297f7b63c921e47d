"""Files that are whole or absent, and errors that say where."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from jemb.core.files import naming, write_array, write_atomic


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_names_the_file():
    with pytest.raises(OSError, match=r"No space left on device: '/some/file'") as error:  # noqa: SIM117
        with naming(Path("/some/file")), open("/dev/full", "wb") as full:  # noqa: PTH123
            full.write(b"x" * 100_000)
    assert error.value.errno == errno.ENOSPC


def test_an_error_that_names_its_file_stays(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), naming(Path("/some/file")):
        (tmp_path / "nowhere").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, 3)  # type: ignore[arg-type]
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("file", b"old")]


def test_arrays(tmp_path):
    write_array(tmp_path / "a.npy", np.arange(5))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="Object arrays"):
        write_array(tmp_path / "b.npy", np.array([object()]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
