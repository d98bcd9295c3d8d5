"""What is taken over from a unit; tests/boot runs a check in it."""

from pathlib import Path

import pytest

from edged.errors import ConfigError
from edged.service import sandbox

PRINTED = """
# /etc/systemd/system/edged@.service
[Unit]
Description=for=people
[Service]
# a comment
ExecStart=/opt/edged/bin/edged run -c /etc/edged/%N.toml
StateDirectory=%N
CapabilityBoundingSet=
ReadWritePaths=/srv/edged \\
  /srv/%p/%i

# /etc/systemd/system/edged@line2.service.d/override.conf
[Service]
LoadCredential=token:/etc/edged/token
[Install]
WantedBy=multi-user.target
"""


def test_settings_of_a_unit_and_its_drop_ins() -> None:
    assert list(sandbox.service_settings(PRINTED, "edged@line2.service")) == [
        ("ExecStart", "/opt/edged/bin/edged run -c /etc/edged/edged@line2.toml"),
        ("StateDirectory", "edged@line2"),
        ("CapabilityBoundingSet", ""),
        ("ReadWritePaths", "/srv/edged    /srv/edged/line2"),
        ("LoadCredential", "token:/etc/edged/token"),
    ]


def test_a_unit_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--as-service: "):
        sandbox.check(tmp_path / "edged-that-nobody-installed.toml")
