"""A check within the sandbox of the daemon's systemd unit: it sees and may do what the daemon would."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edged.errors import ConfigError

# How a service is started, watched and stopped; all the rest is what it runs in.
_LIFECYCLE: Final = ("Type", "Notify", "Exec", "Restart", "Watchdog", "Timeout", "Kill", "OOMPolicy", "Standard")


def check(config: Path) -> int:
    """Runs `edged check` on a configuration as its unit would run the daemon: as its user, in its sandbox.

    Args:
        config: of the unit that has its name: `edged.service` runs on `edged.toml`, `edged@line2.service` on
            `edged@line2.toml`.

    Returns:
        The exit code of the check, which prints for itself.

    Raises:
        ConfigError: there is no such unit, or no systemd, or this is not root.
    """
    unit = f"{config.stem}.service"
    if os.getuid() != 0:
        raise ConfigError([f"--as-service: only root can run something as {unit} would; use sudo"])
    settings = list(service_settings(_output(["systemctl", "cat", unit]), unit))
    program = next((value.split()[0] for key, value in settings if key == "ExecStart" and value), "")
    if not program:
        raise ConfigError([f"--as-service: {unit} has no ExecStart; install the unit of this edged"])
    name = f"edged-check-{os.getpid()}"
    kept = [(key, value) for key, value in settings if not key.startswith(_LIFECYCLE)]
    if any(key.startswith("LoadCredential") and value for key, value in kept):
        kept.append(("BindReadOnlyPaths", f"/run/credentials/{name}.service:/run/credentials/{unit}"))
    command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={name}"]
    command += [part for key, value in kept for part in ("-p", f"{key}={value}")]
    command += [program, "check", "-c", str(config.absolute())]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    sys.stderr.write(done.stderr)  # by us, so that in a reload's log it is the unit's
    return done.returncode


def service_settings(text: str, unit: str) -> Iterator[tuple[str, str]]:
    """Key and value of every line of [Service] of a unit and its drop-ins, with %N and its kin resolved.

    Args:
        text: what `systemctl cat` printed.
        unit: the name, such as `edged@line2.service`.
    """
    stem = unit.removesuffix(".service")
    prefix, _, instance = stem.partition("@")
    specifiers = {"%n": unit, "%N": stem, "%p": prefix, "%i": instance}
    section = ""
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            for specifier, meant in specifiers.items():
                value = value.replace(specifier, meant)
            yield key.strip(), value.strip()


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError([f"--as-service: {command[0]} cannot be run: {error.strerror}"]) from error
    if done.returncode != 0:
        raise ConfigError([f"--as-service: {done.stderr.strip()} (the unit has the name of the configuration's file)"])
    return done.stdout
