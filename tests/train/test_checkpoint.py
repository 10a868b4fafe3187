import pickle

import pytest
import torch
from torch import nn

from edgeopt.errors import StageFailed
from edgeopt.train.checkpoint import fingerprint, read_checkpoint, write_checkpoint

STATE = {"module": {"w": torch.arange(6.0).reshape(2, 3)}, "history": [{"loss": 0.5}], "average": None}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "deep" / "checkpoint.pt"
    write_checkpoint(path, "key", STATE)
    return path


def test_what_was_written_is_read(path):
    state, why = read_checkpoint(path, "key")
    assert why == ""
    assert torch.equal(state.pop("module")["w"], STATE["module"]["w"])
    assert state == {"history": [{"loss": 0.5}], "average": None}
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_another_runs_checkpoint_is_not_taken(path):
    assert read_checkpoint(path, "other") == (None, "checkpoint.pt belongs to another run")
    assert read_checkpoint(path.with_name("none.pt"), "key") == (None, "")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_damaged_not_fatal(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    state, why = read_checkpoint(path, "key")
    assert state is None
    assert "damaged" in why


def test_pickled_code_is_never_run(path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(path.with_name("exploded")), "w"))

    for content in (pickle.dumps(Bomb()), None):
        if content is None:
            torch.save({"format": 1, "key": "key", "state": Bomb()}, path)
        else:
            path.write_bytes(content)
        assert read_checkpoint(path, "key")[0] is None
    assert not path.with_name("exploded").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StageFailed, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "checkpoint.pt", "key", STATE)


def test_a_fingerprint_sees_values_names_and_shapes():
    def prints(change):
        module = nn.BatchNorm1d(4)
        change(module)
        return fingerprint(module)

    same = prints(lambda module: None)
    assert same == prints(lambda module: None)
    assert same != prints(lambda module: module.running_mean.add_(1e-6))
    assert same != prints(lambda module: module.register_buffer("more", torch.zeros(0)))
    channels_last = nn.Conv2d(3, 4, 3)
    before = fingerprint(channels_last)
    assert fingerprint(channels_last.to(memory_format=torch.channels_last)) == before
