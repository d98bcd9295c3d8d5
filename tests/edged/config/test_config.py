import os
from pathlib import Path
from typing import Any

import pytest

from edged.config import loading as configuration
from edged.config.tables import Config
from edged.errors import ConfigError


class Files:
    """A configuration that is right, to be made wrong."""

    def __init__(self, root: Path) -> None:
        self.root, self.inbox = root, root / "in"
        self.inbox.mkdir()
        self.path = root / "edged.toml"
        self.lines = {
            "service": [f'state_dir = "{root}/state"'],
            "models.tiny": [f'path = "{root}/bundle"'],
            "[sources]": ['name = "line1"', 'type = "folder"', f'path = "{root}/in"', 'model = "tiny"'],
        }

    def write(self, **more: str) -> Path:
        """Writes the file; the arguments are more lines of a table, `__` for a dot and `each_` for two brackets."""
        lines = {name: list(table) for name, table in self.lines.items()}
        for key, text in more.items():
            name = f"[{key.removeprefix('each_')}]" if key.startswith("each_") else key.replace("__", ".")
            lines.setdefault(name, []).append(text)
        self.path.write_text("\n".join(f"[{name}]\n" + "\n".join(table) for name, table in lines.items()))
        return self.path

    def load(self, environment: dict[str, str] | None = None, **more: str) -> Config:
        return configuration.load(self.write(**more), environment or {})

    def problems(self, environment: dict[str, str] | None = None, **more: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(environment, **more)
        return caught.value.problems


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_defaults_are_the_contracts(files: Files) -> None:
    config = files.load()
    assert config.service.log_format == "auto"
    assert config.http.address == ("127.0.0.1", 9108)
    assert config.models["tiny"].device == "auto"
    assert config.models["tiny"].threads == 0
    assert (config.limits.max_bytes, config.limits.max_pixels) == (100_000_000, 100_000_000)
    assert config.limits.decode_seconds == 20
    (source,) = config.sources
    assert (source.settle_seconds, source.retry_seconds, source.rescan_seconds) == (2.0, 30.0, 60.0)
    assert (source.recursive, source.after, source.denoiser) == (True, "keep", None)
    assert source.patterns == ("*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp", "*.webp")
    assert config.sinks == ()
    assert (config.retention.results_days, config.retention.images_max_bytes) == (90, 2_000_000_000)


def test_sinks(files: Files) -> None:
    config = files.load(each_sinks=f'name = "a"\ntype = "images"\ndir = "{files.root}/images"')
    (sink,) = config.sinks
    assert (sink.type, sink.only) == ("images", "anomalies")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"service": "statedir = 1"}, "service.statedir: unknown key; did you mean state_dir?"),
        ({"htpp": "listen = 1"}, "htpp: unknown key; did you mean http?"),
        ({"each_sources": "settle = 1"}, "sources.line1.settle: unknown key; did you mean settle_seconds?"),
        (
            {"each_sources": "frozen_seconds = 1"},
            'sources.line1.frozen_seconds: unknown key; remove it (only sources of type "video" have it)',
        ),
        (
            {"each_sinks": 'name = "a"\ntype = "jsonl"\npath = "/x"\nurl = "http://h"'},
            'only sinks of type "alertmanager" and "mqtt" and "webhook" have it',
        ),
        (
            {"each_sinks": 'name = "a"\ntype = "alertmanager"\nurl = "http://h"\nlabels = { "hall-3" = "x" }'},
            "labels.hall-3.[key]: String should match pattern '^[a-zA-Z_][a-zA-Z0-9_]*$'",
        ),
        ({"models__tiny": 'device = "gpu"'}, "models.tiny.device: should be 'auto', 'cpu' or 'cuda', not 'gpu'"),
        ({"limits": "max_bytes = 0"}, "limits.max_bytes: should be greater than or equal to 1, not 0"),
        ({"limits": 'max_bytes = "10"'}, "limits.max_bytes: should be a valid integer, not '10'"),
        ({"limits": "max_bytes = true"}, "limits.max_bytes: should be a valid integer, not True"),
        ({"each_sources": 'settle_seconds = "10"'}, "sources.line1.settle_seconds: should be a valid number, not '10'"),
        ({"each_sources": 'recursive = "yes"'}, "sources.line1.recursive: should be a valid boolean, not 'yes'"),
        ({"each_sources": "after = 2026-11-22"}, "sources.line1.after: should be 'keep', 'move' or 'delete'"),
        ({"models__tiny": "target_fpr = 1.0"}, "models.tiny.target_fpr: should be less than 1, not 1.0"),
        ({"models__tiny": "threshold = nan"}, "models.tiny.threshold: should be a finite number, not nan"),
        ({"models__tiny": "target_fpr = 0.1\nthreshold = 1.0"}, "give target_fpr or threshold, not both"),
        ({"each_sources": 'after = "move"'}, "sources.line1.done_dir: after ="),
        ({"each_sources": 'after = "burn"'}, "sources.line1.after: should be 'keep', 'move' or 'delete'"),
        ({"each_sources": "patterns = []"}, "sources.line1.patterns"),
        ({"each_sinks": 'name = "a"\ntype = "kafka"'}, "there is no sink type 'kafka'"),
        ({"each_sinks": 'name = "a"'}, "type: is required"),
        ({"each_sinks": 'name = "a b"\ntype = "jsonl"\npath = "/x"'}, "is letters, digits, _ and -"),
        ({"each_sinks": 'name = "a"\ntype = "jsonl"\npath = "x"'}, "must be an absolute path, not 'x'"),
        ({"http": 'listen = "0.0.0.0:9108"'}, "http.listen: 0.0.0.0 can be reached from other machines"),
        ({"http": 'listen = "example.org:9108"'}, "is no address"),
        ({"http": 'listen = "127.0.0.1:99999"'}, "is no port"),
        ({"http": 'listen = "127.0.0.1"'}, "is no address"),
        ({"http": f'listen = "127.0.0.1:{"9" * 5000}"'}, "is no port"),
        ({"http": 'tls_cert = "/x"'}, "tls_cert and tls_key belong together"),
        ({"http": 'tls_client_ca = "/x"'}, "client certificates take TLS"),
        ({"http": 'token_file = "/nowhere"'}, "http.token_file: /nowhere cannot be read"),
    ],
)
def test_one_problem(files: Files, more: dict[str, str], problem: str) -> None:
    problems = files.problems(**more)
    assert any(problem in line for line in problems), problems


def test_everything_is_reported_at_once(files: Files) -> None:
    problems = files.problems(
        {"EDGED_NONSENSE__X": "1"},
        service="colour = 1",
        http='listen = "0.0.0.0:1"',
        limits="max_pixels = -1",
        each_sources="settle_seconds = -1",
    )
    starts = [problem.partition(":")[0] for problem in problems]
    for expected in (
        "EDGED_NONSENSE__X",
        "service.colour",
        "limits.max_pixels",
        "sources.line1.settle_seconds",
        "http.listen",
    ):
        assert expected in starts, problems
    assert all(": " in problem for problem in problems)


def test_folders(files: Files) -> None:
    files.inbox.rmdir()
    assert "is not a folder" in files.problems()[0]
    files.inbox.write_text("")
    assert "is not a folder" in files.problems()[0]


@pytest.mark.parametrize(
    "more",
    [
        {"each_sources": 'done_dir = "{in}/done"'},
        {"each_sources": 'quarantine_dir = "{in}"'},
        {"each_sinks": 'name = "a"\ntype = "images"\ndir = "{in}/heat"'},
        {"each_sinks": 'name = "a"\ntype = "jsonl"\npath = "{in}/a.jsonl"'},
        {"models__other": 'path = "{in}/bundle"'},
    ],
)
def test_nothing_of_ours_may_be_in_an_inbox(files: Files, more: dict[str, str]) -> None:
    filled = {key: text.replace("{in}", str(files.inbox)) for key, text in more.items()}
    assert any("is in the inbox" in problem for problem in files.problems(**filled))
    (files.root / "link").symlink_to(files.inbox)  # not by way of a link either
    filled = {key: text.replace("{in}", str(files.root / "link")) for key, text in more.items()}
    assert any("is in the inbox" in problem for problem in files.problems(**filled))


@pytest.mark.parametrize(
    "more",
    [
        {"each_sources": 'done_dir = "{root}"'},
        {"each_sources": 'quarantine_dir = "{root}"'},
        {"each_sinks": 'name = "a"\ntype = "images"\ndir = "{root}"'},
        {"models__other": 'path = "{root}"'},
    ],
)
def test_an_inbox_may_not_be_where_files_are_put_away(files: Files, more: dict[str, str]) -> None:
    filled = {key: text.replace("{root}", str(files.root)) for key, text in more.items()}
    assert any(f"sources.line1.path: {files.inbox} is in" in problem for problem in files.problems(**filled))


def test_an_inbox_may_not_be_in_the_quarantine_of_the_state(files: Files) -> None:
    inbox = files.root / "state" / "quarantine" / "line1"
    inbox.mkdir(parents=True)
    files.lines["[sources]"][2] = f'path = "{inbox}"'
    assert any("service.state_dir: its quarantine" in problem for problem in files.problems())


def test_what_stands_where_something_is_to_be_written(files: Files) -> None:
    (files.root / "file").write_text("")
    (files.root / "link").symlink_to(files.root / "a.jsonl")
    assert any(
        "is not a folder; choose another path" in problem
        for problem in files.problems(each_sinks=f'name = "a"\ntype = "images"\ndir = "{files.root}/file"')
    )
    assert any(
        "is not a file; choose another path" in problem
        for problem in files.problems(each_sinks=f'name = "a"\ntype = "jsonl"\npath = "{files.inbox}"')
    )
    twice = f'name = "a"\ntype = "jsonl"\npath = "{files.root}/a.jsonl"'
    again = twice.replace('"a"', '"b"').replace("a.jsonl", "link")
    assert any("is used by two sinks" in line for line in files.problems(each_sinks=f"{twice}\n[[sinks]]\n{again}"))
    files.lines["service"] = [f'state_dir = "{files.root}/file"']
    assert any("service.state_dir" in problem and "is not a folder" in problem for problem in files.problems())


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("state/journal.sqlite", "service.state_dir: its journal.sqlite"),
        ("state/journal.sqlite-wal", "service.state_dir: its journal.sqlite-wal"),
        ("state/edged.journal.lock", "service.state_dir: its edged.journal.lock"),
        ("state/received/line1/results.jsonl", "service.state_dir: its received"),
        ("state/quarantine/results.jsonl", "service.state_dir: its quarantine"),
        ("edged.toml", "the configuration"),
        ("link.toml", "the configuration"),
        ("bundle/manifest.json", "models.tiny.path"),
        ("gate.mp4", "sources.gate.url"),
        ("mask.png", "sources.gate.mask"),
        ("token", "http.token_file"),
        ("secret", "sinks.hook.secret_file"),
    ],
)
def test_nothing_is_written_over_what_edged_needs(files: Files, path: str, other: str) -> None:
    (files.root / "link.toml").symlink_to(files.path)
    for name in ("gate.mp4", "mask.png", "token", "secret"):
        (files.root / name).write_text("word")
    gate = f'[[sources]]\nname = "gate"\ntype = "video"\nmodel = "tiny"\nurl = "{files.root}/gate.mp4"'
    hook = f'name = "hook"\ntype = "webhook"\nurl = "http://127.0.0.1"\nsecret_file = "{files.root}/secret"'
    more = {"http": f'token_file = "{files.root}/token"', "each_sources": f'{gate}\nmask = "{files.root}/mask.png"'}
    sink = f'[[sinks]]\nname = "out"\ntype = "jsonl"\npath = "{files.root}/'
    (problem,) = files.problems(**more, each_sinks=f'{hook}\n{sink}{path}"')
    at = f"{files.root}/{path}"
    assert problem == f"sinks.out.path: {at} is, or is in, what edged itself needs ({other}); choose another place"
    assert len(files.load(**more, each_sinks=f'{hook}\n{sink}state/results.jsonl"').sinks) == 2


def test_state_may_not_be_in_a_bundle_and_quarantine_may_be_in_its_own_folder(files: Files) -> None:
    assert files.load(each_sources=f'quarantine_dir = "{files.root}/state/quarantine/line1"')
    files.lines["service"] = [f'state_dir = "{files.root}/bundle/state"']
    assert any("service.state_dir" in problem and "models.tiny.path" in problem for problem in files.problems())


@pytest.mark.parametrize(
    ("http", "plc", "clash"),
    [
        ("127.0.0.1:9108", "127.0.0.1:9108", True),
        ("localhost:9108", "127.0.0.1:9108", True),
        ("[::1]:9108", "localhost:9108", True),
        ("127.0.0.1:9108", "0.0.0.0:9108", True),
        ("127.0.0.1:9108", "127.0.0.1:4840", False),
        ("127.0.0.1:9108", "[::1]:9108", False),
        ("127.0.0.1:9108", "192.0.2.1:9108", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:9108", "nowhere", False),
    ],
)
def test_a_port_is_listened_on_once(files: Files, http: str, plc: str, clash: bool) -> None:
    sink = f'name = "plc"\ntype = "opcua"\nlisten = "{plc}"'
    _, problems = configuration.examine(files.write(http=f'listen = "{http}"', each_sinks=sink), {})
    said = f"sinks.plc.listen: {plc} has the port of http.listen ({http}); choose another one"
    assert (said in problems) == clash
    assert sum("has the port of" in problem for problem in problems) == clash


def test_two_sinks_do_not_listen_on_one_port(files: Files) -> None:
    sinks = "\n[[sinks]]\n".join(f'name = "{name}"\ntype = "opcua"' for name in ("plc", "panel", "wall"))
    problems = files.problems(each_sinks=sinks)
    assert problems == [
        "sinks.panel.listen: 127.0.0.1:4840 has the port of sinks.plc.listen (127.0.0.1:4840); choose another one",
        "sinks.wall.listen: 127.0.0.1:4840 has the port of sinks.plc.listen (127.0.0.1:4840); choose another one",
        "sinks.wall.listen: 127.0.0.1:4840 has the port of sinks.panel.listen (127.0.0.1:4840); choose another one",
    ]


@pytest.mark.parametrize("path", ["/" + "a" * 256, "/a" * 2500, "/a\\u0000b"])
def test_paths_that_no_system_takes(files: Files, path: str) -> None:
    assert any("must not" in problem for problem in files.problems(each_sources=f'done_dir = "{path}"'))


def test_state_may_not_be_in_an_inbox(files: Files) -> None:
    files.lines["service"] = [f'state_dir = "{files.inbox}/state"']
    assert any("service.state_dir" in problem and "inbox" in problem for problem in files.problems())


def test_names_are_used_once_and_inboxes_do_not_overlap(files: Files) -> None:
    (files.inbox / "sub").mkdir()
    again = (
        files.write().read_text()
        + f"""
[[sources]]
name = "line1"
type = "folder"
path = "{files.inbox}/sub"
model = "nothing"
[[sinks]]
name = "a"
type = "jsonl"
path = "{files.root}/x"
[[sinks]]
name = "a"
type = "images"
dir = "{files.root}/x"
"""
    )
    files.path.write_text(again)
    with pytest.raises(ConfigError) as caught:
        configuration.load(files.path, {})
    text = str(caught.value)
    assert "sources.line1.name: is used twice" in text
    assert "sinks.a.name: is used twice" in text
    assert "overlap" in text
    assert "there is no [models.nothing]; models: tiny" in text
    assert "is used by two sinks" in text


def test_permissions(files: Files) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read and write everything")
    files.inbox.chmod(0)
    assert "cannot be read by this user" in files.problems()[0]
    files.inbox.chmod(0o555)
    assert files.load()
    problems = files.problems(each_sources=f'after = "move"\ndone_dir = "{files.root}/done"')
    assert "takes write permission" in problems[0]
    files.inbox.chmod(0o755)


@pytest.mark.parametrize(
    ("variable", "value", "path"),
    [
        ("EDGED_HTTP__LISTEN", "[::1]:0", "http.listen"),
        ("EDGED_LIMITS__MAX_BYTES", "77", "limits.max_bytes"),
        ("EDGED_RETENTION__RESULTS_DAYS", "1.5", "retention.results_days"),
        ("EDGED_SERVICE__LOG_FORMAT", "json", "service.log_format"),
    ],
)
def test_environment(files: Files, variable: str, value: str, path: str) -> None:
    found: Any = files.load({variable: value, "PATH": "/bin", "EDGED": "x"})
    for part in path.split("."):
        found = getattr(found, part)
    assert str(found) == value


def test_environment_of_models(files: Files) -> None:
    config = files.load({"EDGED_MODELS__TINY__DEVICE": "cpu", "EDGED_MODELS__TINY__TARGET_FPR": "0.1"})
    assert (config.models["tiny"].device, config.models["tiny"].target_fpr) == ("cpu", 0.1)


@pytest.mark.parametrize("variable", ["EDGED_SOURCES__PATH", "EDGED_HTTP__A__B", "EDGED_MODELS__TINY"])
def test_environment_that_is_no_key(files: Files, variable: str) -> None:
    assert any(variable in problem and "is no key" in problem for problem in files.problems({variable: "x"}))
    assert files.problems({"EDGED_HTTP__PORT": "1"})[0].startswith("http.port: unknown key")


@pytest.mark.parametrize(
    "content",
    [b"[", b"\xff\xfe", b'a = "', b"a = " + b"9" * 5000, b"a = " + b"[" * 20_000, b"[" + b"a." * 3000 + b"a]"],
)
def test_what_is_not_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "edged.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="is not TOML"):
        configuration.load(tmp_path / "edged.toml", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        configuration.load(tmp_path / "nowhere.toml", {})


def test_what_reads_results_needs_only_the_service(files: Files) -> None:
    files.inbox.rmdir()
    files.write(models__tiny='device = "nonsense"')
    assert configuration.load_service(files.path, {}).state_dir == files.root / "state"
    moved = configuration.load_service(files.path, {"EDGED_SERVICE__STATE_DIR": "/elsewhere"})
    assert moved.state_dir == Path("/elsewhere")
    files.path.write_text("[service]\n")
    with pytest.raises(ConfigError, match=r"service\.state_dir: is required"):
        configuration.load_service(files.path, {})


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:9108", "127.9.9.9:1"])
def test_loopback_takes_no_token(files: Files, listen: str) -> None:
    assert files.load(http=f'listen = "{listen}"').http.listen == listen


def test_beyond_loopback_with_a_token(files: Files) -> None:
    token = files.root / "token"
    token.write_text("secret\n")
    config = files.load(http=f'listen = "0.0.0.0:9108"\ntoken_file = "{token}"')
    assert config.http.token() == "secret"
    for wrong in (b"", b"\n", b"\xff\xfe"):
        token.write_bytes(wrong)
        assert any("http.token_file" in problem for problem in files.problems(http=f'token_file = "{token}"'))


@pytest.mark.parametrize(
    ("topic", "url", "echoes"),
    [
        ("#", "mqtt://broker", True),
        ("plant/#", "mqtt://broker:1883", True),
        ("plant/edged/#", "mqtt://BROKER", True),
        ("plant/+/+", "mqtt://broker", True),
        ("plant/edged/line1", "mqtt://broker", True),
        ("$share/two/plant/#", "mqtt://broker", True),
        ("plant/+", "mqtt://broker", False),
        ("plant/edged/line2", "mqtt://broker", False),
        ("plant/cell/#", "mqtt://broker", False),
        ("#", "mqtts://broker", True),
        ("#", "mqtt://broker.", True),
        ("#", "mqtt://broker:1884", False),
        ("#", "mqtt://other", False),
    ],
)
def test_what_a_sink_publishes_is_no_picture(files: Files, topic: str, url: str, echoes: bool) -> None:
    sources = f'name = "cell"\ntype = "mqtt"\nmodel = "tiny"\nurl = "{url}"\ntopic = "{topic}"'
    sink = 'name = "out"\ntype = "mqtt"\nurl = "mqtt://broker"\ntopic = "plant/edged"'
    more = {"each_sources": f"[[sources]]\n{sources}", "each_sinks": sink}
    if echoes:
        assert any("sources.cell.topic" in line and "sinks.out" in line for line in files.problems(**more))
    else:
        assert len(files.load(**more).sources) == 2


@pytest.mark.parametrize("url", ["mqtt://localhost", "mqtt://127.0.0.1", "mqtt://[::1]:1883", "mqtts://LOCALHOST:8883"])
def test_this_machine_has_several_names(files: Files, url: str) -> None:
    source = f'[[sources]]\nname = "cell"\ntype = "mqtt"\nmodel = "tiny"\nurl = "{url}"\ntopic = "#"'
    sink = 'name = "out"\ntype = "mqtt"\nurl = "mqtt://127.0.0.1"'
    assert any("sources.cell.topic" in line for line in files.problems(each_sources=source, each_sinks=sink))


def test_a_broker_knows_two_connections_by_two_names(files: Files) -> None:
    source = '[[sources]]\nname = "cell"\ntype = "mqtt"\nmodel = "tiny"\nurl = "mqtt://localhost"\ntopic = "parts"'
    sinks = [f'name = "{name}"\ntype = "mqtt"\nurl = "mqtt://127.0.0.1"\ntopic = "{name}"' for name in ("a", "b")]

    def all_with(first: str, second: str, third: str) -> dict[str, str]:
        lines = "\n[[sinks]]\n".join(f"{sink}\n{id_}" for sink, id_ in zip(sinks, (second, third), strict=True))
        return {"each_sources": f"{source}\n{first}", "each_sinks": lines}

    id_ = 'client_id = "box"'
    assert len(files.load(**all_with("", id_, "")).sinks) == 2
    said = "{}.client_id: box is that of {} at the same broker; choose another one"
    assert files.problems(**all_with(id_, "", id_)) == [said.format("sinks.b", "sources.cell")]
    assert files.problems(**all_with("", id_, id_)) == [said.format("sinks.b", "sinks.a")]
    sinks[1] = sinks[1].replace("127.0.0.1", "elsewhere")
    assert len(files.load(**all_with("", id_, id_)).sinks) == 2


@pytest.mark.parametrize("url", ["rtsp://", "rtsp://:554/x", "rtsp://host:99999/x", "rtsp://host:0/x", "http://[::1/x"])
def test_an_address_of_a_camera_names_a_host(files: Files, url: str) -> None:
    camera = f'[[sources]]\nname = "gate"\ntype = "video"\nmodel = "tiny"\nurl = "{url}"'
    assert any("sources.gate.url: names no host" in line for line in files.problems(each_sources=camera))


def test_an_address_of_a_camera_may_hold_a_login(files: Files) -> None:
    camera = '[[sources]]\nname = "gate"\ntype = "video"\nmodel = "tiny"\nurl = "rtsp://u:p%40x@[::1]:554/live?a=b"'
    assert len(files.load(each_sources=camera).sources) == 2
