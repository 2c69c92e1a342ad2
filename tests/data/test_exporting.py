import pytest
from tests.data.stores import stored
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.data.exporting import export_store
from worldline.data.importing import import_logs
from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError, UnknownNameError

FORMATS = pytest.mark.parametrize(("name", "file"), [("hdf5", "out.h5"), ("lerobot", "out")])


@pytest.fixture
def store(tmp_path, schema, make_episode):
    return stored(tmp_path / "store", schema, (make_episode(number, 5) for number in range(4)))


def test_the_ending_tells_the_format(tmp_path, store):
    assert export_store(store, tmp_path / "out.h5") == "hdf5"
    with pytest.raises(InputError, match=r"matches no format.*hdf5, lerobot"):
        export_store(store, tmp_path / "out.xyz")
    with pytest.raises(UnknownNameError, match="exporter"):
        export_store(store, tmp_path / "out", exporter="hfd5")
    with pytest.raises(InputError, match="exists"):
        export_store(store, tmp_path / "out.h5")


@FORMATS
def test_what_was_damaged_is_not_passed_on(tmp_path, store, name, file):
    block = store.path / "blocks" / "position.raw"
    content = bytearray(block.read_bytes())
    content[60] ^= 1
    block.write_bytes(content)
    with pytest.raises(DataError, match=r"episode 1.*differs from the one that was added"):
        export_store(open_store(store.path), tmp_path / file, exporter=name)
    assert not (tmp_path / file).exists()


def test_the_command(tmp_path, store):
    shown = CliRunner().invoke(app, ["export", str(store.path), str(tmp_path / "out.h5")])
    assert (shown.exit_code, "Exported 4 episodes as hdf5" in shown.output) == (0, True)
    shown = CliRunner().invoke(app, ["export", str(store.path), str(tmp_path / "out")])
    assert (shown.exit_code, "--exporter" in shown.output) == (1, True)


def test_a_copy_of_a_store_says_what_was_lost(tmp_path, schema, make_episode):
    lossy = Store.create(tmp_path / "lossy", schema, max_error={"camera": 4}, notes={"task": "sweep"})
    lossy.append(make_episode(0, 4))
    import_logs(lossy.path, tmp_path / "copy")
    copy = open_store(tmp_path / "copy")
    assert (copy.card.max_error, copy.card.notes["task"]) == ({"camera": 4}, "sweep")
    assert copy.entry(0).digest == lossy.entry(0).digest
