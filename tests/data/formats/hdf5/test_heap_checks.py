from __future__ import annotations

import struct

import h5py
import pytest

from worldline.data.formats.hdf5.access import check_heaps
from worldline.errors import DataError


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as written:
        written["words"] = ["one", "two", "three"]
        written["letters"] = b"GCOL in the midst of a text"
    return tmp_path / "a.h5"


def test_sound_heaps_pass(file):
    check_heaps(file)


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 8000])
def test_an_object_that_does_not_fit_is_found(file, length):
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL\1\0\0\0")
    content[heap + 24 : heap + 32] = struct.pack("<Q", length)
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged near byte {heap}"):
        check_heaps(file)


def test_free_space_that_leads_nowhere_is_found(file):
    content = bytearray(file.read_bytes())
    heap = content.find(b"GCOL\1\0\0\0")
    place = heap + 16
    while struct.unpack_from("<H", content, place)[0]:
        place += 16 + -(-struct.unpack_from("<Q", content, place + 8)[0] // 8) * 8
    content[place + 8 : place + 16] = bytes(8)
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged near byte"):
        check_heaps(file)
