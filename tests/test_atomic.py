"""Outputs appear whole or not at all."""

import os
from pathlib import Path

import pytest

from edgeopt.atomic import write_atomic, writing_folder
from edgeopt.errors import StageFailed


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageFailed, match="No space left on device"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    place = tmp_path / "stage"

    def stop_half_way() -> None:
        with writing_folder(place) as temporary:
            (temporary / "model.onnx").write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way()
    assert list(tmp_path.iterdir()) == []
    with writing_folder(place) as temporary:
        (temporary / "model.onnx").write_bytes(b"whole")
        assert not place.exists()
    assert (place / "model.onnx").read_bytes() == b"whole"


def test_an_existing_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with writing_folder(tmp_path / "stage") as temporary:
            (temporary / content).write_text(content)
    assert [file.name for file in (tmp_path / "stage").iterdir()] == ["second"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StageFailed, match="Permission denied"):
        write_atomic(tmp_path / "x" / "model.onnx", b"")


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StageFailed, match="cannot be written"):
        write_atomic(tmp_path / "out" / "model.onnx", b"")
