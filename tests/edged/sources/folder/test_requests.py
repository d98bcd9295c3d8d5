import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.sources.folder import file_actions
from edged.sources.folder.file_actions import bring_back
from edged.sources.folder.files import Fingerprint
from edged.sources.folder.private import PrivateFolder
from edged.sources.folder.requests import Request, ask, asked, strike


def request_of(path: Path, now_at: Path) -> Request:
    return Request("0" * 26, "line1", os.fsencode(path), os.fsencode(now_at), Fingerprint.of(now_at.lstat()))


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    for name in ("in", "quarantine"):
        (tmp_path / name).mkdir()
    now_at = tmp_path / "quarantine" / os.fsdecode(b"\xff\n.png")
    now_at.write_bytes(b"content")
    (tmp_path / "quarantine" / (now_at.name + ".json")).write_text('{"id": "' + "0" * 26 + '"}')
    return request_of(tmp_path / "in" / now_at.name, now_at)


def test_a_request_comes_back_as_it_was_until_it_is_struck(tmp_path: Path, request_: Request) -> None:
    assert list(asked(tmp_path, "line1")) == []
    ask(tmp_path, request_)
    ask(tmp_path, request_)
    assert list(asked(tmp_path, "line1")) == [request_]
    assert list(asked(tmp_path, "line2")) == []
    strike(tmp_path, request_)
    strike(tmp_path, request_)
    assert list(asked(tmp_path, "line1")) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x", "source": "line1"}', '{"id": "y", "source": "line1"}'])
def test_what_is_no_request_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "requeue").mkdir()
    (tmp_path / "requeue" / "x.json").write_text(text)
    assert list(asked(tmp_path, "line1")) == []


def test_a_file_comes_back_with_its_bytes_and_its_sidecar_goes(tmp_path: Path, request_: Request) -> None:
    private = PrivateFolder(os.fsencode(tmp_path / "private"))
    assert bring_back(request_, private) == request_.path
    assert Path(os.fsdecode(request_.path)).read_bytes() == b"content"
    assert list((tmp_path / "quarantine").iterdir()) == []
    assert bring_back(request_, private) is None  # a second time there is nothing to do


def test_another_file_stays_where_it_is(tmp_path: Path, request_: Request) -> None:
    now_at = Path(os.fsdecode(request_.now_at))
    now_at.write_bytes(b"another's")
    assert bring_back(request_, PrivateFolder(os.fsencode(tmp_path / "private"))) is None
    assert now_at.read_bytes() == b"another's"
    assert list((tmp_path / "in").iterdir()) == []


class CutOffError(Exception):
    pass


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_step_leaves_one_file(
    tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch, across: bool, step: int
) -> None:
    """Every call that changes a folder is a step; the one that is cut off is not carried out."""
    private, steps = PrivateFolder(os.fsencode(tmp_path / "private")), iter(range(100))

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object, **options: object) -> None:
            if next(steps) == step:
                raise CutOffError
            if across and real is file_actions.rename_new and arguments[0] == request_.now_at:
                raise OSError(18, os.strerror(18))  # EXDEV
            real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(file_actions, "rename_new", counted(file_actions.rename_new))
        for name in ("rename", "unlink", "makedirs", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        with contextlib.suppress(CutOffError):
            bring_back(request_, private)
    if across:  # the next start is on the same file systems

        def refuse(old: bytes, new: bytes, real: Callable[[bytes, bytes], None] = file_actions.rename_new) -> None:
            if old == request_.now_at:
                raise OSError(18, os.strerror(18))
            real(old, new)

        monkeypatch.setattr(file_actions, "rename_new", refuse)
    bring_back(request_, private)
    assert [path.read_bytes() for path in (tmp_path / "in").iterdir()] == [b"content"]
    assert not os.path.lexists(request_.now_at)
