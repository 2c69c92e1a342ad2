from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.index import MASKED, RECORD, TIMED, Index, seal
from worldline.errors import DataError


def records(lengths, flags=None):
    made = np.zeros(len(lengths), RECORD)
    made["num_steps"], made["flags"] = lengths, flags or 0
    made["first_step"] = np.cumsum([0, *lengths[:-1]])
    made["source_end"] = 3 * np.arange(1, len(lengths) + 1)
    return seal(made)


def test_records_add_up(tmp_path):
    (tmp_path / "index.bin").write_bytes(records([3, 1, 4], [MASKED, TIMED, 0]).tobytes())
    index = Index(tmp_path / "index.bin")
    assert (len(index), index.num_steps, index.source_end) == (0, 0, 0)
    index.refresh()
    assert (len(index), index.num_steps, index.source_end, index.num_bytes) == (3, 8, 9, 3 * RECORD.itemsize)
    assert (index.end_of(0), index.end_of(1), index.last_masked, index.last_timed) == (3, 4, 0, 1)
    (tmp_path / "index.bin").write_bytes(records([3, 1, 4, 1, 5], [MASKED, TIMED, 0, 0, MASKED]).tobytes())
    index.refresh()
    assert (len(index), index.num_steps, index.last_masked, index.last_timed) == (5, 14, 4, 1)


@given(byte=st.integers(0, RECORD.itemsize - 1), bit=st.integers(0, 7), number=st.integers(0, 2))
def test_every_flipped_bit_is_noticed(tmp_path_factory, byte, bit, number):
    path = tmp_path_factory.mktemp("index") / "index.bin"
    content = bytearray(records([3, 1, 4]).tobytes())
    content[number * RECORD.itemsize + byte] ^= 1 << bit
    path.write_bytes(content)
    index = Index(path)
    if number == 2:  # taken for a record that a crash tore
        index.refresh()
        assert len(index) == 2
        return
    with pytest.raises(DataError, match=rf"record {number} is damaged"):
        index.refresh()
