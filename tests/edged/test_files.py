from pathlib import Path

import pytest

from edged.files import is_network, kind_of

MOUNTS = rb"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:20 / /proc rw - proc proc rw
40 21 0:50 / /srv/line rw,relatime shared:9 - nfs4 nas:/line rw
41 21 0:51 / /srv/with\040space rw - cifs //nas/x rw
42 40 8:2 / /srv/line/local rw - xfs /dev/sdb1 rw
43 21 0:52 / /srv/hidden rw - ext4 /dev/sdc1 rw
44 43 0:53 / /srv/hidden rw - fuse.sshfs x: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"/", "ext4"),
        (b"/home/x", "ext4"),
        (b"/srv/line", "nfs4"),
        (b"/srv/line/deep/er", "nfs4"),
        (b"/srv/lines", "ext4"),
        (b"/srv/with space/x", "cifs"),
        (b"/srv/line/local/x", "xfs"),
        (b"/srv/hidden/x", "fuse.sshfs"),
    ],
)
def test_kind_of(path: bytes, kind: str) -> None:
    assert kind_of(path, MOUNTS) == kind


def test_damaged_mounts() -> None:
    assert kind_of(b"/x", b"") == ""
    assert kind_of(b"/x", b"nonsense\n1 2 3 - \n") == ""


def test_a_temporary_folder_is_local(tmp_path: Path) -> None:
    assert not is_network(tmp_path)
    assert not is_network(tmp_path / "not" / "there")
