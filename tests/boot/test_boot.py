"""edged on a real Debian under a real systemd, from the first command of docs/operations.md to the last.

One story on one box, for a boot takes long: each step goes on where the one before it left off.
"""

import csv
import io
import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.boot.box import OPERATOR, Box, until
from tests.boot.conftest import ROOT
from tests.edged.making import bad, encode, good

EDGED = "/opt/edged/bin/edged"
CONFIG = "/etc/edged/edged.toml"
MANUAL = (ROOT / "docs" / "operations.md").read_text()


def manual(section: str) -> list[str]:
    """The blocks of commands in a section of the manual, in order."""
    (text,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", MANUAL, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("sudo ")]


def block(section: str, word: str) -> str:
    """The block of a section that has a word in it."""
    (found,) = [one for one in manual(section) if word in one]
    return str(found)


class Service:
    """edged as the box's operator and its camera see it."""

    def __init__(self, box: Box, unit: str = "edged", port: int = 9108) -> None:
        self.box, self.unit, self.port = box, unit, port
        self.dropped: list[str] = []

    def show(self, key: str) -> str:
        """A property of the unit."""
        return self.box.run(f"systemctl show {self.unit} -p {key} --value").strip()

    def is_ready(self) -> bool:
        return self.box.run(f"curl -s localhost:{self.port}/readyz", check=False).strip() == "ready"

    def wait_until_ready(self, seconds: float = 60) -> None:
        until(self.is_ready, f"{self.unit} to be ready", seconds)

    def metric(self, name: str) -> float:
        page = self.box.run(f"curl -s localhost:{self.port}/metrics")
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", page, flags=re.MULTILINE)
        return float(value)

    def drop(self, *pictures: bytes, folder: str = "", inbox: str = "line1") -> list[str]:
        """What the camera does, with its own umask: the names under which pictures are in the inbox now."""
        names = []
        to = f"/srv/edged/{inbox}/{folder}".rstrip("/")
        for picture in pictures:
            name = f"part{len(self.dropped):05}.png"
            (self.box.root / "home/camera" / name).write_bytes(picture)
            names.append(f"{to}/{name}")
            self.dropped.append(names[-1])
        files = " ".join(name.rpartition("/")[2] for name in names)
        self.box.run(f"umask 022; mkdir -p {to}; cp -t {to} {files}; rm {files}", user="camera")
        return names

    def results(self) -> list[dict[str, str]]:
        """Every row of the journal, by the manual's command."""
        text = self.box.run(f"sudo -u edged {EDGED} results -c /etc/edged/{self.unit}.toml --format csv", user=OPERATOR)
        return list(csv.DictReader(io.StringIO(text)))

    def wait_for_all(self, seconds: float = 90) -> list[dict[str, str]]:
        """Waits until everything that was dropped has its result, and sees to it that it has one only."""
        try:
            until(lambda: len(self.results()) >= len(self.dropped), "every result", seconds)
        finally:
            rows = self.results()
        assert Counter(row["path"] for row in rows) == Counter(self.dropped)
        return rows

    def log(self, since: float) -> str:
        return self.box.run(f"journalctl -u {self.unit} -o cat --since @{since:.0f}")

    def limit(self, name: str, lines: str) -> None:
        """`systemctl edit`, and a restart; no lines: takes it back."""
        file = f"/etc/systemd/system/{self.unit}.service.d/{name}.conf"
        if lines:
            self.box.write(file, f"[Service]\n{lines}\n")
        else:
            self.box.run(f"rm {file}")
        self.box.run(f"systemctl daemon-reload; systemctl restart {self.unit}")
        self.wait_until_ready()

    def edit(self, old: str, new: str) -> None:
        """Changes a line of the configuration."""
        file = self.box.root / f"etc/edged/{self.unit}.toml"
        text = file.read_text()
        lines = list(re.finditer(rf"^{re.escape(old)}$", text, flags=re.MULTILINE))
        assert len(lines) == 1, text
        file.write_text(text[: lines[0].start()] + new + text[lines[0].end() :])


@pytest.fixture(scope="module")
def edged(box: Box) -> Iterator[Service]:
    service = Service(box)
    yield service
    # What the log of a failed test is read for.
    print(box.run("journalctl -u edged -o short-iso --no-pager | tail -n 60", check=False))  # noqa: T201


def install(edged: Service) -> None:
    edged.box.run(block("Install", "python3 -m venv"), user=OPERATOR, timeout=300)
    edged.wait_until_ready()
    assert edged.show("ActiveState") == "active"
    assert edged.show("StatusText") == "watching 1 source(s)"


def a_camera_drops(edged: Service) -> None:
    assert not edged.box.done("touch /srv/edged/line1/x.png", user="camera")
    edged.box.run("sudo usermod -aG edged-drop camera", user=OPERATOR)
    edged.drop(*map(good, range(5)), bad())
    edged.drop(good(100), good(101), folder="tray7/row1")
    rows = edged.wait_for_all()
    assert Counter(row["is_anomaly"].lower() for row in rows) == {"false": 7, "true": 1}
    # Emptied, though its maker's umask lets nobody else write: the pictures are in done_dir, which they cannot enter.
    until(lambda: edged.box.run("find /srv/edged/line1 -type f") == "", "an empty inbox")
    assert edged.box.run("find /srv/edged/done -name '*.png' | wc -l").strip() == "8"
    for secret in ("/srv/edged/done", "/etc/edged/edged.toml", "/var/lib/edged/results.jsonl"):
        assert not edged.box.done(f"cat {secret} || ls {secret}", user="camera")


def the_anomaly_is_on_the_page(edged: Service) -> None:
    """From the first command of the manual to here is what it takes a new operator, who reads and types as well."""
    box = edged.box
    (row,) = [row for row in edged.results() if row["is_anomaly"] == "true"]
    name = row["path"].rpartition("/")[2]
    page = box.run("curl -s http://127.0.0.1:9108/", user=OPERATOR)
    assert name in page
    assert f"/results/{row['id']}" in page
    assert box.done(f"curl -sf http://127.0.0.1:9108/api/v1/results/{row['id']}/overlay.png > /dev/null")
    (top,) = re.findall(r"`(sudo -u edged \S+/edged top [^`]+)`", MANUAL)
    said = box.run(top, user=OPERATOR)
    assert said.startswith(" healthy ")
    assert name in said


def a_reader_reads(edged: Service) -> None:
    edged.box.run("useradd --create-home --groups edged reader")
    edged.box.run("cat /etc/edged/edged.toml $(find /srv/edged/done -name 'part*.png') > /dev/null", user="reader")
    assert edged.box.done("head -n 1 /var/lib/edged/results.jsonl", user="reader")
    assert not edged.box.done("touch /srv/edged/line1/x.png", user="reader")


def reload(edged: Service) -> None:
    before, pid = edged.metric('edged_model_threshold{model="parts"}'), edged.show("MainPID")
    edged.edit("target_fpr = 0.01", "target_fpr = 0.05")
    edged.box.run("sudo systemctl reload edged", user=OPERATOR)
    until(lambda: edged.metric('edged_model_threshold{model="parts"}') < before, "another threshold")
    assert edged.show("MainPID") == pid


def a_broken_reload(edged: Service) -> None:
    threshold, pid, began = edged.metric('edged_model_threshold{model="parts"}'), edged.show("MainPID"), time.time()
    edged.edit('model = "parts"', 'model = "prats"')
    assert not edged.box.done("sudo systemctl reload edged", user=OPERATOR)
    assert "there is no [models.prats]" in edged.log(began)
    edged.edit('model = "prats"', 'model = "parts"')
    assert edged.show("MainPID") == pid
    assert edged.metric('edged_model_threshold{model="parts"}') == threshold
    edged.drop(good(200))
    edged.wait_for_all()


def a_daemon_that_hangs(edged: Service) -> None:
    edged.limit("watchdog", "WatchdogSec=4\nRestartSec=1")
    began, pid = time.time(), edged.show("MainPID")
    edged.box.run(f"kill -STOP {pid}")
    edged.drop(*map(good, range(300, 305)))
    until(lambda: edged.show("MainPID") not in {pid, "0"}, "the watchdog", 60)
    edged.wait_until_ready()
    edged.wait_for_all()
    said = edged.log(began)
    assert "Watchdog timeout" in said
    assert "Current thread" in said or "Thread 0x" in said  # the stacks of all threads
    edged.limit("watchdog", "")


def kill_nine(edged: Service) -> None:
    pid = edged.show("MainPID")
    edged.drop(*map(good, range(400, 440)))
    edged.box.run(f"kill -9 {pid}")
    edged.drop(good(440))
    until(lambda: edged.show("MainPID") not in {pid, "0"}, "another daemon", 60)
    edged.wait_until_ready()
    edged.wait_for_all()
    assert edged.show("NRestarts") == "1"


def stop_under_load(edged: Service) -> None:
    edged.drop(*map(good, range(500, 600)))
    began = time.monotonic()
    edged.box.run("sudo systemctl stop edged", user=OPERATOR)
    assert time.monotonic() - began < 20
    assert (edged.show("Result"), edged.show("ActiveState")) == ("success", "inactive")
    assert edged.box.run("find /proc -maxdepth 1 -user edged") == ""


def reboot_with_a_backlog(edged: Service) -> None:
    edged.drop(*map(good, range(600, 650)))
    edged.box.reboot()
    edged.wait_until_ready()
    edged.wait_for_all()


def a_check_in_the_sandbox(edged: Service) -> None:
    check = f"{EDGED} check -c {CONFIG}"
    for folder in ("/srv/other", "/home/inbox"):
        edged.box.run(f"install -d -o edged -g edged {folder}")
        edged.edit('path = "/srv/edged/line1"', f'path = "{folder}"')
        assert edged.box.done(f"sudo -u edged {check}", user=OPERATOR)
        said = edged.box.run(f"sudo {check} --as-service", user=OPERATOR, check=False)
        assert f"line1.path: {folder}" in said or f"takes write permission on {folder}" in said
        assert "edged: this is what edged.service may see and do" in said
        assert not edged.box.done(f"sudo {check} --as-service", user=OPERATOR)
        edged.edit(f'path = "{folder}"', 'path = "/srv/edged/line1"')
    assert "[service]" in edged.box.run(f"sudo {check} --as-service", user=OPERATOR)
    assert edged.box.run("systemctl list-units --all --plain 'edged-check*' --no-legend") == ""


def nothing_leaves_the_box(edged: Service) -> None:
    """The fire wall is taken away: what the daemon and the commands tried to send would be on the wire."""
    edged.limit("network", "IPAddressDeny=\nIPAddressAllow=any")
    before = edged.box.left()
    edged.drop(*map(good, range(700, 705)), bad(1))
    edged.wait_for_all()
    edged.box.run(f"sudo -u edged {EDGED} check -c {CONFIG}", user=OPERATOR)
    edged.box.run(f"{EDGED} score bundles/parts /srv/edged/done/part00000.png", user="root", check=False)
    assert edged.box.left() == before
    assert edged.box.run("find / -xdev -iname '*deviceid*' -not -path '/opt/*' -not -path '/usr/*'") == ""
    state = set(edged.box.run("ls -A /var/lib/edged").split())
    assert {name for name in state if "journal" not in name} == {"images", "models", "results.jsonl"}
    edged.box.run("timeout 3 getent hosts telemetry.example", check=False)
    assert edged.box.left() > before  # a look-up would have been seen
    edged.limit("network", "")


def no_address_but_loopback(edged: Service) -> None:
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('%s', 9))"
    group = "/sys/fs/cgroup/unified" if edged.box.done("test -d /sys/fs/cgroup/unified") else "/sys/fs/cgroup"
    enter = f"echo $$ > {group}{edged.show('ControlGroup')}/cgroup.procs"
    before = edged.box.left()
    assert not edged.box.done(f'{enter}; python3 -c "{send % "192.0.2.7"}"')
    assert edged.box.left() == before
    assert edged.box.done(f'{enter}; python3 -c "{send % "127.0.0.1"}"')
    edged.box.run(f'python3 -c "{send % "192.0.2.7"}"')
    assert edged.box.left() > before


def out_of_memory(edged: Service) -> None:
    """A monstrous picture costs a decoder its life, and is set aside; the daemon goes on."""
    edged.limit("memory", "MemoryHigh=infinity\nMemoryMax=400M")
    pid = edged.show("MainPID")
    edged.drop(encode(Image.new("RGB", (9_900, 9_900), "grey"), compress_level=1), good(800))
    rows = edged.wait_for_all()
    assert [row["reason"] for row in rows[-2:] if row["status"] == "quarantined"] == ["decoder_crashed"]
    assert (edged.show("MainPID"), edged.show("NRestarts")) == (pid, "0")
    edged.limit("memory", "")


def two_instances(edged: Service) -> None:
    box, (install, start) = edged.box, manual("Several on one box")
    box.run(install, user=OPERATOR)
    lines = (box.root / "etc/tmpfiles.d/edged.conf").read_text()
    box.write("/etc/tmpfiles.d/edged.conf", lines + re.sub("line1|done|quarantine", r"line2-\g<0>", lines))
    box.run("systemd-tmpfiles --create edged.conf")
    other = Service(box, "edged@line2", 9109)
    text = (box.root / "etc/edged/edged@line2.toml").read_text().replace("9108", "9109")
    text = re.sub("/srv/edged/", "/srv/edged/line2-", text)
    text = re.sub("/var/lib/edged(?!/models)", "/var/lib/edged@line2", text)
    box.write("/etc/edged/edged@line2.toml", text)
    box.run(start, user=OPERATOR)
    other.wait_until_ready()
    other.drop(*map(good, range(900, 905)), inbox="line2-line1")
    edged.drop(*map(good, range(905, 910)))
    other.wait_for_all()
    edged.wait_for_all()
    box.run("systemctl disable --now edged@line2")
    assert edged.is_ready()


def credentials(edged: Service) -> None:
    """The manual's example: what only root can read, as credentials of the service."""
    (example,) = re.findall(r"^```\n\[Service\]\n(.*?)^```$", MANUAL, flags=re.MULTILINE | re.DOTALL)
    box = edged.box
    box.run(
        "cd /etc/edged; umask 077; head -c 32 /dev/urandom | base64 > token; openssl req -x509 -newkey ec -pkeyopt "
        "ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem -days 2"
    )
    for key, file in (("token_file", "token"), ("tls_cert", "cert.pem"), ("tls_key", "key.pem")):
        edged.edit(f'#{key} = "/etc/edged/{file}"', f'{key} = "/run/credentials/edged.service/{file}"')
    box.write("/etc/systemd/system/edged.service.d/credentials.conf", f"[Service]\n{example}")
    box.run("systemctl daemon-reload; systemctl restart edged")
    ask = "curl -s --cacert /etc/edged/cert.pem https://localhost:9108/metrics"
    until(lambda: box.done(f'{ask} -f -H "Authorization: Bearer $(cat /etc/edged/token)"'), "an answer by TLS")
    assert not box.done(f"{ask} -f")
    assert not box.done("cat /etc/edged/token || cat /etc/edged/key.pem", user="edged")
    box.run("sudo systemctl reload edged; sudo systemctl stop edged", user=OPERATOR)
    box.run(f"sudo {EDGED} check -c {CONFIG} --as-service", user=OPERATOR)
    box.run("rm /etc/systemd/system/edged.service.d/credentials.conf")
    for key, file in (("token_file", "token"), ("tls_cert", "cert.pem"), ("tls_key", "key.pem")):
        edged.edit(f'{key} = "/run/credentials/edged.service/{file}"', f'#{key} = "/etc/edged/{file}"')
    box.run("systemctl daemon-reload; systemctl restart edged")
    edged.wait_until_ready()


def upgrade(edged: Service) -> None:
    (commands,) = manual("An upgrade")
    rows = edged.results()
    edged.box.run(commands, user=OPERATOR)
    edged.wait_until_ready()
    assert edged.results() == rows


def uninstall(edged: Service) -> None:
    box, (remove, purge) = edged.box, manual("Uninstall")
    box.run(remove, user=OPERATOR)
    assert not box.done("systemctl cat edged || ls /opt/edged")
    assert box.done("test -s /var/lib/edged/journal.sqlite && test -d /srv/edged/done && test -s /etc/edged/edged.toml")
    box.run(purge, user=OPERATOR)
    left = box.run("find / -xdev -iname '*edged*' -not -path '/home/*' -not -path '/var/log/*' -not -path '/tmp/*'")
    assert left == ""
    assert not box.done("getent passwd edged || getent group edged edged-drop")


def package(edged: Service) -> None:
    """The same from a package: installed, upgraded under way, removed, purged."""
    box, (first, removal, purge) = edged.box, manual("As a Debian package")
    box.run(first, user=OPERATOR, timeout=300)
    edged.wait_until_ready()
    edged.dropped.clear()
    box.run("usermod -aG edged-drop camera")
    edged.drop(good(1000), bad(1000))
    edged.wait_for_all()
    box.run("usermod -aG edged reader; head -n 1 /etc/edged/edged.toml", user="root")
    assert box.done("cat /etc/edged/edged.toml", user="reader")
    assert not box.done("cat /etc/edged/edged.toml", user="camera")
    rows, pid = edged.results(), edged.show("MainPID")
    edged.edit("target_fpr = 0.01", "target_fpr = 0.05")
    box.run(
        "sudo apt-get install -q -y -o Dpkg::Options::=--force-confold ./dist/*.post1_*.deb", user=OPERATOR, timeout=300
    )
    edged.wait_until_ready()
    assert edged.show("MainPID") not in {pid, "0"}
    assert box.done("grep -q 'of a later version' /usr/share/edged/gpu.conf")
    assert "target_fpr = 0.05" in (box.root / "etc/edged/edged.toml").read_text()
    assert box.run("stat -c '%a %U %G' /etc/edged/edged.toml").strip() == "640 root edged"
    assert edged.results() == rows
    edged.drop(good(1001))
    edged.wait_for_all()
    box.run(removal.replace("apt ", "apt -y "), user=OPERATOR, timeout=300)
    assert not box.done("systemctl cat edged || ls /opt/edged || ls /etc/systemd/system/multi-user.target.wants/edged*")
    assert box.done("test -s /var/lib/edged/journal.sqlite && test -s /etc/edged/edged.toml")
    box.run(purge.replace("apt ", "apt -y "), user=OPERATOR, timeout=300)
    assert not box.done("ls -d /etc/edged /var/lib/edged /opt/edged")
    assert box.run("find /srv/edged/done -name '*.png' | wc -l").strip() == "3"
    assert box.run("find / -xdev -iname '*edged*' -path '*/lib/systemd/*' -o -path '/var/lib/dpkg/info/edged*'") == ""


STEPS = (
    install,
    a_camera_drops,
    the_anomaly_is_on_the_page,
    a_reader_reads,
    reload,
    a_broken_reload,
    a_daemon_that_hangs,
    kill_nine,
    stop_under_load,
    reboot_with_a_backlog,
    a_check_in_the_sandbox,
    nothing_leaves_the_box,
    no_address_but_loopback,
    out_of_memory,
    two_instances,
    credentials,
    upgrade,
    uninstall,
    package,
)


@pytest.mark.timeout(1200)
def test_the_life_of_a_box(edged: Service) -> None:
    for step in STEPS:
        began = time.monotonic()
        step(edged)
        print(f"{step.__name__}: {time.monotonic() - began:.1f} s")  # noqa: T201
