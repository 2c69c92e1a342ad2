import numpy as np
import pytest

from worldline import data
from worldline.data.base import ReadOptions
from worldline.data.open_logs import open_logs
from worldline.errors import DataError, InputError, UnknownNameError


def test_what_no_importer_knows_is_refused_with_a_hint(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_logs(tmp_path / "none")
    (tmp_path / "log.doc").write_text("a,b")
    for path in (tmp_path, tmp_path / "log.doc"):
        with pytest.raises(DataError, match=r"no importer recognises.*npz.*store"):
            open_logs(path)


def test_a_format_can_be_forced(tmp_path):
    np.savez(tmp_path / "a.npz", position=np.zeros((5, 2)), action=np.zeros((4, 1)))
    (tmp_path / "a.npz").rename(tmp_path / "a.zip")
    with pytest.raises(DataError, match="no importer recognises"):
        open_logs(tmp_path / "a.zip")
    assert len(open_logs(tmp_path / "a.zip", importer="npz")) == 1
    with pytest.raises(UnknownNameError, match="importer"):
        open_logs(tmp_path / "a.zip", importer="zip")
    with pytest.raises(InputError, match=r"npz logs take no rate_hz"):
        open_logs(tmp_path / "a.zip", importer="npz", reading=ReadOptions(rate_hz=5.0))


def test_the_package_lists_its_public_names():
    assert data.open is open_logs
    assert all(callable(getattr(data, name)) for name in data.__all__)
    with pytest.raises(AttributeError, match=r"Public names: .*open"):
        data.opne  # noqa: B018 (asking for it is the test)
