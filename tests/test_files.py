"""What a power cut leaves: a name only comes to a file or a folder whose content is on the disk."""

import errno
import os
from pathlib import Path

import pytest
from conftest import fails

from helpers import InputError, files
from helpers.files import atomic_dir, flush, move, publish, read_json, read_jsonl, write_text
from helpers.generation.replies import _read_kept


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls that decide, in their order: ("fsync", path) and ("rename", from, to), relative to tmp_path."""
    found = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def name(path):
        return Path(path).relative_to(tmp_path).as_posix()

    def synced(handle):
        found.append(("fsync", name(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def renamed(call):
        def renaming(source, target):
            found.append(("rename", name(source), name(target)))
            call(source, target)

        return renaming

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed(rename))
    monkeypatch.setattr(os, "replace", renamed(replace))
    return found


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name what is flushed")


def test_a_text_is_on_the_disk_before_its_name_and_its_name_before_the_call_returns(tmp_path, calls):
    write_text(tmp_path / "a/b/file", "text")
    temporary = f"a/b/.file.{os.getpid()}.tmp"
    assert calls == [
        ("fsync", "a"),
        ("fsync", "."),
        ("fsync", temporary),
        ("rename", temporary, "a/b/file"),
        ("fsync", "a/b"),
    ]


def test_all_of_a_folder_is_on_the_disk_before_its_name(tmp_path, calls):
    (tmp_path / "data").mkdir()
    with atomic_dir(tmp_path / "data") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/file").touch()
        (folder / "link").symlink_to("nowhere")
    new = folder.name
    assert sorted(calls[:3]) == [("fsync", new), ("fsync", f"{new}/deep"), ("fsync", f"{new}/deep/file")]
    assert calls[2] == ("fsync", new)
    assert calls[3:] == [("rename", "data", f"{new}.old"), ("rename", new, "data"), ("fsync", ".")]


def test_what_moves_has_its_new_name_on_the_disk_before_its_old_one_is_gone(tmp_path, calls):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "old/file").touch()
    move(tmp_path / "old/file", tmp_path / "new/file")
    assert calls == [("rename", "old/file", "new/file"), ("fsync", "new"), ("fsync", "old")]


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_drive_that_cannot_flush_a_folder_is_taken_and_one_that_fails_is_not(tmp_path, monkeypatch, code, raised):
    fsync = os.fsync

    def failing(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(code, "")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", failing)
    (tmp_path / "new").touch()
    if raised:
        with pytest.raises(OSError, match=f"Errno {code}"):
            publish(tmp_path / "new", tmp_path / "file")
    else:
        publish(tmp_path / "new", tmp_path / "file")
        assert (tmp_path / "file").exists()


def test_a_file_that_cannot_be_flushed_gets_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", fails(OSError(errno.EINVAL, "")))
    (tmp_path / "new").touch()
    with pytest.raises(OSError, match="Errno 22"):
        publish(tmp_path / "new", tmp_path / "file")
    assert not (tmp_path / "file").exists()
    with pytest.raises(OSError, match="Errno 22"):
        flush(tmp_path)


@pytest.mark.parametrize("tail", [b"\0" * 300 + b"\n", b"[2, [7]\n[3, [8]]\n", b"7\n", b"\xff\xfe\n", b"[2, [7"])
def test_replies_are_kept_up_to_what_a_power_cut_spoilt(tmp_path, tail):
    """They are appended, not flushed: a file system may have given the file its length and not yet its content."""
    file = tmp_path / "kept"
    _read_kept(file, ["inputs"])
    with open(file, "ab") as kept:
        kept.write(b"[0, [5]]\n[1, [6]]\n" + tail)
    assert _read_kept(file, ["inputs"]) == {0: [5], 1: [6]}
    assert file.read_bytes().split(b"\n", 1)[1] == b"[0, [5]]\n[1, [6]]\n"
    assert _read_kept(file, ["other inputs"]) == {}


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b'{"a": "\xff"}', b"[" * 100_000, b"5\n"])
@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_damaged_file_is_named(tmp_path, read, content):
    (tmp_path / "x.json").write_bytes(content)
    if content == b"" and read is read_jsonl:
        assert read(tmp_path / "x.json") == []
    elif content == b"5\n" and read is read_json:
        assert read(tmp_path / "x.json") == 5
    else:
        with pytest.raises(InputError, match=r"/x\.json is damaged \(.+\): restore it, or delete it, and the stage"):
            read(tmp_path / "x.json")
