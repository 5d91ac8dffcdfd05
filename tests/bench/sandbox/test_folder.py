import os

import pytest

from stride.bench.sandbox import FilesError, Limits, SandboxError, read, workspace
from stride.bench.sandbox.folder import broken, free_bytes, hand_over, remove


def test_workspace_has_its_files_and_is_gone_afterwards():
    with workspace({"main.py": "print()", "app/models/todo.py": "x = 'é'"}) as folder:
        assert read(folder, "main.py") == b"print()"
        assert read(folder, "app/models/todo.py").decode() == "x = 'é'"
        assert os.stat(folder).st_mode & 0o777 == 0o700
    assert not folder.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../out", "a/../../out", "", ".", "a\0b"])
def test_names_that_lead_out(name):
    with pytest.raises(FilesError, match="not a name inside"), workspace({name: "x"}):
        pass
    with workspace() as folder, pytest.raises(SandboxError, match="not a name inside"):
        read(folder, name)


@pytest.mark.parametrize(
    "files", [{"a.py": "", "a.py/b.py": ""}, {"a/b": "", "a": ""}, {"x" * 300: ""}, {"a": "\ud800"}]
)
def test_files_that_cannot_be_are_named(files):
    with pytest.raises(FilesError, match=r"^the file '.* cannot be written: "), workspace(files):
        pytest.fail("there is such a folder")


def test_read_is_bounded(tmp_path):
    (tmp_path / "long").write_bytes(b"x" * 1000)
    assert read(tmp_path, "long", most=10) == b"x" * 10


def test_read_refuses_folders(tmp_path):
    (tmp_path / "beneath").mkdir()
    with pytest.raises(OSError, match="not a regular file"):
        read(tmp_path, "beneath")


def test_remove_what_is_too_deep_for_python(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        above, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    remove(folder)
    assert not folder.exists()


def test_limits_on_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    free = free_bytes(tmp_path)
    assert broken(tmp_path, Limits(), [], free) is None
    assert broken(tmp_path, Limits(disk_bytes=100_000), [], free) == "disk"
    assert broken(tmp_path, Limits(disk_files=0), [], free) == "files"


def test_a_disk_that_fills_up_from_wherever(tmp_path, monkeypatch):
    monkeypatch.setattr("stride.bench.sandbox.folder.free_bytes", lambda folder: 10_000_000)
    assert broken(tmp_path, Limits(), [], 100_000_000) == "disk"
    assert broken(tmp_path, Limits(), [], 15_000_000) is None  # it was as full before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_handing_over_gives_links_and_not_what_they_point_to(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "beneath").mkdir(parents=True)
    (folder / "beneath" / "file").touch()
    outside.touch()
    (folder / "link").symlink_to(outside)
    hand_over(folder, 12345)
    inside = [folder, folder / "beneath", folder / "beneath" / "file", folder / "link"]
    assert {os.lstat(path).st_uid for path in inside} == {12345}
    assert os.stat(outside).st_uid == 0
