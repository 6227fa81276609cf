"""Files are read with one clear line, and written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.files import check_writable, parse_json_text, read_text, write_all


def test_writes_every_file_or_none(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    with pytest.raises(ParsimError, match="cannot be written"):
        write_all({kept: "after", tmp_path / "no such folder" / "x": "y"})
    assert kept.read_text() == "before"
    assert os.listdir(tmp_path) == ["kept.txt"]
    write_all({kept: "after", tmp_path / "new.bin": b"\0"})
    assert kept.read_text() == "after"
    assert sorted(os.listdir(tmp_path)) == ["kept.txt", "new.bin"]


def test_keeps_mode_and_follows_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("")
    target.chmod(0o640)
    link.symlink_to(target)
    write_all({link: "through"})
    assert link.is_symlink()
    assert target.read_text() == "through"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_writes_to_a_device(tmp_path: Path) -> None:
    write_all({Path("/dev/null"): "gone"})
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("make", [lambda p: p, lambda p: p / "missing" / "x.html"])
def test_refuses_before_the_work(tmp_path: Path, make: object) -> None:
    with pytest.raises(ParsimError) as caught:
        check_writable([make(tmp_path)])  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_refuses_one_file_for_two_outputs(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match="two outputs"):
        check_writable([tmp_path / "a", tmp_path / "a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such plan"), ("directory", "is a directory"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_reading_says_what_is_wrong(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "input"
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ParsimError, match=message):
        read_text(path, "plan")


@pytest.mark.parametrize("text", ['{"a": 1', "[" * 100_000, "9" * 10_000, ""])
def test_json_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ParsimError, match="not JSON"):
        parse_json_text(text)
