import h5py
import numpy as np
import pytest

from worldline.data.draft_folder import drafted
from worldline.data.formats.hdf5.access import arrays_in, attributes, opened, read_rows
from worldline.errors import DataError, InputError


def test_a_group_that_contains_itself_is_read_once(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["inner/values"] = np.zeros(3)
        file["inner/loop"] = file["inner"]
    with opened(path) as file:
        assert list(arrays_in(file, path)) == ["inner.values"]


def test_values_in_other_files_are_refused(tmp_path):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "gone.h5"), "x", (4,))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with opened(tmp_path / "a.h5") as file, pytest.raises(DataError, match="'x': its values are stored in other files"):
        read_rows(file["x"], 0, 4, "x")


def test_only_the_chunks_that_are_read_must_be_there(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (9, 4), ">f8", chunks=(2, 3))[2:6] = 5
    with opened(tmp_path / "a.h5") as file:
        values = read_rows(file["x"], 2, 6)
        assert (values.dtype.isnative, (values == 5).all()) == (True, True)
        for start, stop in ((1, 3), (5, 7), (8, 9)):
            with pytest.raises(DataError, match="never written"):
                read_rows(file["x"], start, stop)
        with pytest.raises(DataError, match="expected rows 5 to 10, got 9 rows"):
            read_rows(file["x"], 5, 10)


def test_short_attributes_and_texts_are_kept(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in {"n": 3, "x": 0.5, "yes": True, "word": "née", "bytes": b"ab", "one": np.array([7])}.items():
            file.attrs[name] = value
        file.attrs["long"], file.attrs["many"], file.attrs["nan"] = "x" * 5000, np.arange(3), np.nan
        file["words"] = ["a", "b"]
    with opened(tmp_path / "a.h5") as file:
        assert attributes(file) == {"n": 3, "x": 0.5, "yes": True, "word": "née", "bytes": "ab", "one": 7}
        assert read_rows(file["words"], 0, 2).tolist() == ["a", "b"]


def test_a_draft_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), drafted(tmp_path / "deep" / "out") as draft:
        draft.write_text(f"half {1 / 0}")
    assert list((tmp_path / "deep").iterdir()) == []
    with drafted(tmp_path / "deep" / "out") as draft:
        draft.write_text("whole")
    assert (tmp_path / "deep" / "out").read_text() == "whole"
    with pytest.raises(InputError, match="exists"), drafted(tmp_path / "deep" / "out"):
        pass
