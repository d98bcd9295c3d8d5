import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edged.errors import SourceError
from edged.sources.folder.file_actions import FileMover
from edged.sources.folder.files import FileAction, Fingerprint
from edged.sources.folder.private import PrivateFolder, private_folder
from edged.sources.folder.renames import rename_new

ID = "0123456789ab" + "c" * 14


class Inbox:
    """An inbox, a place for each kind of disposal, and a mover."""

    def __init__(self, root: Path, elsewhere: Path | None = None) -> None:
        self.inbox, self.private = root / "in", root / "private"
        self.done, self.quarantine = (elsewhere or root) / "done", root / "quarantine"
        self.inbox.mkdir()
        self.mover = FileMover(
            os.fsencode(self.inbox),
            PrivateFolder(os.fsencode(self.private)),
            done=os.fsencode(self.done),
            quarantine=os.fsencode(self.quarantine),
        )

    def owed(self, name: str | bytes, content: str, action: str = "move", *, id_: str = ID) -> FileAction:
        path = os.path.join(os.fsencode(self.inbox), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(content)
        sidecar = '{"reason": "undecodable"}\n' if action == "quarantine" else ""
        return FileAction(id_, "line1", path, Fingerprint.of(os.lstat(path)), action, sidecar)  # type: ignore[arg-type]

    def files(self) -> dict[str, str]:
        top = self.inbox.parent
        return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_move_keeps_the_subfolder(inbox: Inbox) -> None:
    disposal = inbox.owed("a/b/c.png", "picture")
    assert inbox.mover.carry_out(disposal) == os.fsencode(inbox.done / "a/b/c.png")
    assert inbox.files() == {"done/a/b/c.png": "picture"}
    assert inbox.mover.carry_out(disposal) is None  # again, as after a crash
    assert inbox.files() == {"done/a/b/c.png": "picture"}


@pytest.mark.parametrize("action", ["move", "quarantine"])
def test_a_file_of_another_inbox_does_not_leave_its_target(tmp_path: Path, inbox: Inbox, action: str) -> None:
    disposal = inbox.owed("a/b.png", "picture", action)
    root = tmp_path / "other"
    root.mkdir()
    target = inbox.done if action == "move" else inbox.quarantine
    mover = FileMover(
        os.fsencode(root),
        PrivateFolder(os.fsencode(inbox.private)),
        done=os.fsencode(inbox.done),
        quarantine=os.fsencode(inbox.quarantine),
    )
    assert mover.carry_out(disposal) == os.fsencode(target / "b.png")
    assert (target / "b.png").read_text() == "picture"


def test_delete(inbox: Inbox) -> None:
    assert inbox.mover.carry_out(inbox.owed("a.png", "picture", "delete")) is None
    assert inbox.files() == {}


def test_quarantine_writes_why_beside_it(inbox: Inbox) -> None:
    inbox.mover.carry_out(inbox.owed("a.png", "broken", "quarantine"))
    assert inbox.files() == {"quarantine/a.png": "broken", "quarantine/a.png.json": '{"reason": "undecodable"}\n'}


def test_names_of_any_bytes(inbox: Inbox) -> None:
    name = b"line\nfeed \"quote' \xff\xfe.png"
    target = inbox.mover.carry_out(inbox.owed(name, "picture"))
    assert target == os.path.join(os.fsencode(inbox.done), name)
    assert os.listdir(os.fsencode(inbox.done)) == [name]


def test_nothing_is_overwritten(inbox: Inbox) -> None:
    inbox.done.mkdir()
    (inbox.done / "a.png").write_text("older")
    inbox.mover.carry_out(inbox.owed("a.png", "newer"))
    assert inbox.files() == {"done/a.png": "older", f"done/a.{ID}.png": "newer"}


@pytest.mark.parametrize("taken", ["a.png", "a.png.json"])
def test_nothing_is_overwritten_in_quarantine_either(inbox: Inbox, taken: str) -> None:
    inbox.quarantine.mkdir()
    (inbox.quarantine / taken).write_text("older")
    inbox.mover.carry_out(inbox.owed("a.png", "newer", "quarantine"))
    files = inbox.files()
    assert files.pop(f"quarantine/{taken}") == "older"
    assert files == {f"quarantine/a.{ID}.png": "newer", f"quarantine/a.{ID}.png.json": '{"reason": "undecodable"}\n'}


def test_a_long_name_still_finds_a_free_one(inbox: Inbox) -> None:
    name = "a" * 251 + ".png"
    inbox.done.mkdir()
    (inbox.done / name).write_text("older")
    inbox.mover.carry_out(inbox.owed(name, "newer"))
    inbox.mover.carry_out(inbox.owed(name, "broken", "quarantine", id_="d" * 26))
    contents = sorted(inbox.files().values())
    assert contents == ["broken", "newer", "older", '{"reason": "undecodable"}\n']
    assert all(len(Path(path).name) <= 255 for path in inbox.files())


@pytest.mark.parametrize("action", ["move", "delete", "quarantine"])
def test_another_file_under_the_name_is_left_alone(inbox: Inbox, action: str) -> None:
    disposal = inbox.owed("a.png", "scored", action)
    (inbox.inbox / "new").write_text("not scored")
    os.rename(inbox.inbox / "new", inbox.inbox / "a.png")
    assert inbox.mover.carry_out(disposal) is None
    assert inbox.files() == {"in/a.png": "not scored"}


@pytest.mark.parametrize("action", ["move", "delete", "quarantine"])
def test_a_file_that_was_rewritten_is_left_alone(inbox: Inbox, action: str) -> None:
    disposal = inbox.owed("a.png", "scored", action)
    with open(inbox.inbox / "a.png", "a") as file:
        file.write(" and more")
    assert inbox.mover.carry_out(disposal) is None
    assert inbox.files() == {"in/a.png": "scored and more"}


@pytest.mark.parametrize("action", ["move", "delete", "quarantine"])
def test_another_file_that_was_caught_is_put_back(inbox: Inbox, action: str) -> None:
    # As after a crash between the rename to the private name and the comparison.
    disposal = inbox.owed("a.png", "scored", action)
    os.unlink(inbox.inbox / "a.png")
    inbox.private.mkdir()
    (inbox.private / ID).write_text("not scored")
    assert inbox.mover.carry_out(disposal) is None
    assert inbox.files() == {"in/a.png": "not scored"}


def test_what_was_caught_is_put_back_beside_what_has_come_since(inbox: Inbox) -> None:
    disposal = inbox.owed("a.png", "scored")
    inbox.private.mkdir()
    (inbox.private / ID).write_text("caught")
    (inbox.inbox / "a.png").write_text("came since")
    assert inbox.mover.carry_out(disposal) is None
    assert inbox.files() == {"in/a.png": "came since", f"in/a.{ID}.png": "caught"}


@pytest.mark.parametrize("action", ["move", "delete", "quarantine"])
def test_goes_on_after_a_crash_under_the_private_name(inbox: Inbox, action: str) -> None:
    disposal = inbox.owed("a.png", "scored", action)
    inbox.private.mkdir()
    os.rename(inbox.inbox / "a.png", inbox.private / ID)
    (inbox.inbox / "a.png").write_text("came since")
    inbox.mover.carry_out(disposal)
    files = inbox.files()
    assert files.pop("in/a.png") == "came since"
    expected = {
        "move": {"done/a.png": "scored"},
        "delete": {},
        "quarantine": {"quarantine/a.png": "scored", "quarantine/a.png.json": '{"reason": "undecodable"}\n'},
    }
    assert files == expected[action]


@pytest.mark.parametrize("part", ["", '{"reason', '{"reason": "undecodable"}\n'])
def test_goes_on_after_a_crash_while_the_sidecar_was_written(inbox: Inbox, part: str) -> None:
    disposal = inbox.owed("a.png", "broken", "quarantine")
    inbox.quarantine.mkdir()
    (inbox.quarantine / "a.png.json").write_text(part)
    inbox.mover.carry_out(disposal)
    assert inbox.files() == {"quarantine/a.png": "broken", "quarantine/a.png.json": '{"reason": "undecodable"}\n'}


def test_what_the_system_refuses_loses_nothing(inbox: Inbox) -> None:
    inbox.done.write_text("a file where the folder should be")
    disposal = inbox.owed("a.png", "picture")
    with pytest.raises(OSError, match=r"exists|directory"):
        inbox.mover.carry_out(disposal)
    assert "picture" in inbox.files().values()
    inbox.done.unlink()
    assert inbox.mover.carry_out(disposal) == os.fsencode(inbox.done / "a.png")
    assert inbox.files() == {"done/a.png": "picture"}


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    folder = Path("/dev/shm") / f"edged-test-{os.getpid()}-{tmp_path.name}"
    if not folder.parent.is_dir() or folder.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("takes two file systems: /dev/shm is not one of its own")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_move_to_another_file_system(tmp_path: Path, other_disk: Path) -> None:
    inbox = Inbox(tmp_path, other_disk)
    disposal = inbox.owed("sub/a.png", "picture")
    os.utime(disposal.path, ns=(10**18, 10**18))
    disposal = replace(disposal, fingerprint=Fingerprint.of(os.lstat(disposal.path)))
    assert inbox.mover.carry_out(disposal) == os.fsencode(other_disk / "done/sub/a.png")
    assert inbox.files() == {}
    assert [path.name for path in (other_disk / "done/sub").iterdir()] == ["a.png"]
    assert (other_disk / "done/sub/a.png").read_text() == "picture"
    assert (other_disk / "done/sub/a.png").stat().st_mtime_ns == 10**18
    inbox.mover.carry_out(inbox.owed("sub/a.png", "second"))
    assert (other_disk / "done/sub/a.png").read_text() == "picture"
    assert (other_disk / f"done/sub/a.{ID}.png").read_text() == "second"


def test_private_folder_passes_over_what_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "locked").mkdir()
    stat, access = os.stat, os.access

    def refuse(path: object, *more: object, **options: object) -> os.stat_result:  # as to who is not root
        if str(path).startswith(f"{tmp_path}/locked/"):
            raise PermissionError(13, "Permission denied")
        return stat(path, *more, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and "locked" not in str(path))
    assert private_folder(tmp_path / "in", [tmp_path / "locked/done"]) == tmp_path / ".in.edged"


def test_private_folder_is_on_the_inboxs_file_system_and_outside_it(tmp_path: Path, other_disk: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    assert private_folder(root, [other_disk / "done", tmp_path / "quarantine"]) == tmp_path / "quarantine/.edged"
    assert private_folder(root, [other_disk / "done"]) == tmp_path / ".in.edged"
    with pytest.raises(SourceError, match="same file system"):
        private_folder(other_disk.parent, [tmp_path / "done"])


def test_rename_new_does_not_overwrite(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    with pytest.raises(FileExistsError):
        rename_new(os.fsencode(old), os.fsencode(new))
    assert (old.read_text(), new.read_text()) == ("old", "new")
    new.unlink()
    rename_new(os.fsencode(old), os.fsencode(new))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    os.symlink("nowhere", old)
    with pytest.raises(FileExistsError):
        rename_new(os.fsencode(new), os.fsencode(old))
