"""The daemon: start in order, loop, stop in reverse.

Signals are noted in a pipe and read by the main thread when it is not in the middle of something: SIGTERM and SIGINT
stop, SIGHUP reloads models, thresholds and sources; a second SIGTERM or SIGINT kills.
"""

import contextlib
import faulthandler
import json
import os
import select
import signal
import threading
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from edged import __version__, failpoints
from edged.config import tables as configuration
from edged.config.tables import Config, ImagesSink, JsonlSink
from edged.errors import BundleError, ConfigError, DeviceError, EdgedError, JournalError
from edged.journal.journal import Journal
from edged.media.decoding import MAX_ATTEMPTS
from edged.media.imaging import PATTERNS, Limits
from edged.models.detector import Detector
from edged.models.runtime import usable_cpus
from edged.models.self_test import Canary
from edged.service import logs, retention
from edged.service.memory import share_arenas
from edged.service.metrics import Metrics, SourceEvents
from edged.service.pipeline import Pipeline
from edged.service.retention import Retention
from edged.service.systemd import Notifier
from edged.sinks.images import ImagesSink as ImagesWriter
from edged.sinks.jsonl import JsonlSink as JsonlWriter
from edged.sources.folder.source import FolderOptions, FolderSource
from edged.web.app import make_app
from edged.web.server import Server

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DECODE_PATIENCE_S: Final = 10.0
_HOUSEKEEPING_S: Final = 600.0
_DRAIN_PATIENCE_S: Final = 30.0
_STUCK_S: Final = 300.0
_RETENTION_S: Final = 1.0
_RETENTION_PAUSE_S: Final = 1.0
_CHECK_NICE: Final = 19
_WAKE: Final = 0


class Daemon:
    """One running `edged run`."""

    def __init__(self, path: Path) -> None:
        """Prepares a daemon for the configuration at `path`; nothing is read before `run`."""
        self._path = path
        self._log = structlog.get_logger()
        self._notifier = Notifier()
        self._phase = "starting"

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT.

        Returns:
            0, after a clean stop.

        Raises:
            EdgedError: it cannot start; or the journal was found to be damaged, and another start salvages it.
        """
        # A mask would not do: libraries have threads before we come, and a signal goes to any that does not mask it.
        self._signals, self._noted = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._noted, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _note)
        share_arenas()
        self._start()
        try:
            self._loop()
        finally:
            self._stop()
        return 0

    def _start(self) -> None:
        config = self._config = configuration.load(self._path)
        logs.configure(config.service.log_format)
        self._log.info("starting", edged=__version__, config=str(self._path))
        failpoints.arm()
        if not faulthandler.is_enabled():
            faulthandler.enable()  # the watchdog's SIGABRT prints every thread's stack
        with self._notifier.starting():  # a journal that is damaged, or of an older edged, takes its time
            self._journal = Journal(config.service.state_dir, on_damage=self._wake)
        try:
            self._detectors = load_detectors(config)
            paired = pair(config, self._detectors)
            canaries = load_canaries(config, self._detectors)
            self._metrics = Metrics(CollectorRegistry())
            self._events = SourceEvents(self._metrics)
            self._server = self._make_server(config)
        except BaseException:
            self._journal.close()
            raise
        image_sinks = [
            ImagesWriter(
                sink.name,
                sink.dir,
                anomalies_only=sink.only == "anomalies",
                max_bytes=config.retention.images_max_bytes,
            )
            for sink in config.sinks
            if isinstance(sink, ImagesSink)
        ]
        self._pipeline = Pipeline(
            journal=self._journal,
            metrics=self._metrics,
            limits=Limits(**config.limits.model_dump()),
            decoders=usable_cpus(),
            record_sinks=[JsonlWriter(sink.name, sink.path) for sink in config.sinks if isinstance(sink, JsonlSink)],
            image_sinks=image_sinks,
        )
        self._retention = Retention(
            self._journal,
            retention.Limits(**config.retention.model_dump()),
            sinks=[sink.name for sink in config.sinks if isinstance(sink, JsonlSink)],
            images=image_sinks,
        )
        self._checker = threading.Thread(target=self._check_journal, name="journal-check")
        self._declare(config)
        self._server.start()
        try:
            self._pipeline.start()
            self._pipeline.set_detectors(paired)
            self._pipeline.set_canaries(canaries)
            for source in config.sources:
                self._add_source(config, source.name)
        except BaseException:
            self._stop()
            raise
        self._phase = ""
        self._log.info("ready", http=self._server.url, sources=[source.name for source in config.sources])
        self._notifier.ready(f"watching {len(config.sources)} source(s)")
        self._checker.start()  # a look at every page takes minutes, which nobody is to wait for

    def _loop(self) -> None:
        interval = self._notifier.watchdog_interval_s or _HOUSEKEEPING_S
        housekeeping_due = time.monotonic()
        while True:
            if self._journal.damage is not None:
                raise JournalError(
                    f"{self._journal.path} is damaged ({self._journal.damage}); start edged again, which salvages what "
                    "can be read"
                )
            if stuck := self._stuck():
                self._log.error("workers are stuck; the watchdog is not held off", workers=stuck)
            else:
                self._notifier.alive()
            if time.monotonic() >= housekeeping_due:
                more = self._remove_old()
                housekeeping_due = time.monotonic() + (_RETENTION_PAUSE_S if more else _HOUSEKEEPING_S)
            pause = min(interval, max(0.0, housekeeping_due - time.monotonic()))
            select.select([self._signals], [], [], pause)
            received = self._read_signals()
            if stopping := received - {signal.SIGHUP}:
                self._log.info("stopping", signal=signal.Signals(min(stopping)).name)
                return
            if received:
                self._reload()

    def _stuck(self) -> list[str]:
        """Workers that died or hang; the longest that one picture may take its decoders is no sign of that."""
        return self._pipeline.stuck(max(_STUCK_S, (MAX_ATTEMPTS + 1) * self._config.limits.decode_seconds))

    def _read_signals(self) -> set[int]:
        try:
            return set(os.read(self._signals, 1024)) - {_WAKE}
        except BlockingIOError:
            return set()

    def _wake(self) -> None:
        """Has the main thread look at how things are; for any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._noted, bytes([_WAKE]))

    def _stop(self) -> None:
        self._phase = "stopping"
        for forced in (signal.SIGTERM, signal.SIGINT):  # a second one kills
            signal.signal(forced, signal.SIG_DFL)
        self._notifier.stopping()
        self._journal.end_check()
        self._pipeline.stop(_DECODE_PATIENCE_S)
        self._server.close()
        if self._checker.ident is not None:
            self._checker.join()
        self._journal.close()
        self._log.info("stopped")

    def _reload(self) -> None:
        self._notifier.reloading()
        before = self._config
        try:
            config = configuration.load(self._path)
            detectors = load_detectors(config, self._detectors)
            paired = pair(config, detectors)
            canaries = load_canaries(config, detectors)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with what is new, what runs goes on
            expected = isinstance(error, EdgedError)
            self._log.error("not reloaded; the running configuration stays", error=str(error), exc_info=not expected)
            self._notifier.ready("reload failed; the running configuration stays")
            return
        fixed = [key for key in ("service", "http", "limits", "sinks", "retention") if _differs(config, before, key)]
        if fixed:
            self._log.warning("these tables are read at start only; restart edged for them", tables=fixed)
            config = config.model_copy(update={key: getattr(before, key) for key in fixed})
            if problems := config.problems():  # with the tables that stay
                self._log.error("not reloaded; the running configuration stays", error="\n".join(problems))
                self._notifier.ready("reload failed; the running configuration stays")
                return
        leaving = [source.name for source in before.sources if source not in config.sources]
        if not self._pipeline.drain(leaving, _DRAIN_PATIENCE_S):
            self._log.error("not reloaded; pictures of a source that changes are still in work", sources=leaving)
            self._notifier.ready("reload failed; the running configuration stays")
            return
        for name in leaving:
            self._pipeline.remove_source(name)
            self._events.down.discard(name)
            self._metrics.forget_source(name)
        self._config, self._detectors = config, detectors
        self._declare(config)
        self._pipeline.set_detectors(paired)
        self._pipeline.set_canaries(canaries)
        for source in config.sources:
            if source not in before.sources:
                self._add_source(config, source.name)
        self._log.info("reloaded")
        self._notifier.ready(f"watching {len(config.sources)} source(s)")

    def _declare(self, config: Config) -> None:
        runtime = next(
            f"{name} {metadata.version(name)}"
            for name in ("onnxruntime", "onnxruntime-gpu")
            if any(metadata.distributions(name=name))
        )
        self._metrics.declare(
            onnxruntime=runtime,
            sources={source.name: source.model for source in config.sources},
            sinks=[sink.name for sink in config.sinks],
        )
        self._metrics.forget_models()
        for name, detector in self._detectors.items():
            self._metrics.declare_model(
                model=name,
                kind=detector.bundle.manifest.kind,
                sha256=detector.bundle.model_sha256,
                provider=detector.session.provider,
                precision=detector.bundle.manifest.precision,
                fell_back=detector.session.fell_back is not None,
                threshold=detector.threshold.value,
            )
        self._metrics.ready.set_function(lambda: not self._troubles())
        self._metrics.watch_journal(self._journal, [s.name for s in config.sinks if isinstance(s, JsonlSink)])

    def _add_source(self, config: Config, name: str) -> None:
        source = next(source for source in config.sources if source.name == name)
        options = FolderOptions(**source.model_dump(exclude={"type", "model", "denoiser"}))
        self._pipeline.add_source(FolderSource(options, self._journal, self._events, config.service.state_dir))

    def _make_server(self, config: Config) -> Server:
        http = config.http
        app = make_app(self._metrics.registry, self._troubles, token=http.token())
        return Server(app, http.address, tls_cert=http.tls_cert, tls_key=http.tls_key, tls_client_ca=http.tls_client_ca)

    def _troubles(self) -> list[str]:
        """Why the daemon is not ready, in words."""
        if self._phase:
            return [self._phase]
        found = self._pipeline.troubles()
        if stuck := self._stuck():
            found.append(f"workers are stuck: {', '.join(stuck)}")
        if self._journal.damage is not None:
            found.append("the journal is damaged")
        if len(self._events.down) == len(self._config.sources):
            found.append(f"no source can be read: {', '.join(sorted(self._events.down))}")
        return found

    def _remove_old(self) -> bool:
        """Removes what is old or too much, for a moment; whether there is more."""
        try:
            return self._retention.run(_RETENTION_S)
        except (EdgedError, OSError) as error:
            self._log.error("what is old cannot be removed", error=str(error))
            return False

    def _check_journal(self) -> None:
        with contextlib.suppress(OSError):  # it may take as long as it likes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _CHECK_NICE)
        try:
            for problem in self._journal.check():
                self._log.error("the journal is damaged; it is salvaged at the next start", problem=problem)
        except EdgedError as error:
            self._log.error("the journal could not be checked", error=str(error))


def _note(_: int, __: object) -> None:
    """The signal is in the pipe already."""


def load_detectors(config: Config, running: Mapping[str, Detector] | None = None) -> dict[str, Detector]:
    """Loads every model of a configuration; says so where a threshold or a device is not what was asked for.

    Raises:
        ConfigError: models cannot be loaded; each is named.
    """
    log = structlog.get_logger()
    detectors, problems = {}, []
    for name, model in config.models.items():
        try:
            detectors[name] = Detector.load(
                model.path,
                name=name,
                device=model.device,
                threads=model.threads,
                target_fpr=model.target_fpr,
                threshold=model.threshold,
                reuse=(running or {}).get(name),
            )
        except (BundleError, DeviceError) as error:
            problems.append(f"models.{name}.{'device' if isinstance(error, DeviceError) else 'path'}: {error}")
    if problems:
        raise ConfigError(problems)
    for name, detector in detectors.items():
        log.info(
            "model loaded",
            model=name,
            provider=detector.session.provider,
            threshold=round(detector.threshold.value, 4),
            calibration_pictures=detector.threshold.n,
        )
        if detector.threshold.shortfall:
            log.warning("the false-positive rate is not promised", model=name, why=detector.threshold.shortfall)
        if detector.session.fell_back:
            log.warning("CUDA was expected, the CPU runs", model=name, why=detector.session.fell_back)
    return detectors


def pair(config: Config, detectors: Mapping[str, Detector]) -> dict[str, Detector]:
    """The detector of each source, by the source's name, behind the source's denoiser.

    Raises:
        ConfigError: a detector was not calibrated with that denoiser.
    """
    paired: dict[tuple[str, str | None], Detector] = {}  # sources of the same two share one, and so their batches
    problems = []
    for source in config.sources:
        wanted = detectors[source.model].bundle.manifest.input
        if wanted.kind != "image" and source.patterns == PATTERNS:
            problems.append(
                f"sources.{source.name}.patterns: models.{source.model} takes a {wanted.kind}, and these are patterns "
                f"of pictures; set patterns = {json.dumps(wanted.patterns)}"
            )
        denoiser = None if source.denoiser is None else detectors[source.denoiser]
        try:
            key = (source.model, source.denoiser)
            paired[key] = paired.get(key) or detectors[source.model].with_denoiser(denoiser)
        except BundleError as error:
            problems.append(f"sources.{source.name}.denoiser: {error}")
    if problems:
        raise ConfigError(problems)
    return {source.name: paired[source.model, source.denoiser] for source in config.sources}


def load_canaries(config: Config, detectors: Mapping[str, Detector]) -> dict[str, tuple[Canary, float]]:
    """The canary of each model that has `canary_seconds`, and that interval.

    Raises:
        ConfigError: such a model is no VAE on pixels.
    """
    canaries, problems = {}, []
    for name, model in config.models.items():
        if model.canary_seconds is None:
            continue
        try:
            canaries[name] = (Canary.load(detectors[name]), model.canary_seconds)
        except BundleError as error:
            problems.append(f"models.{name}.canary_seconds: {error}")
    if problems:
        raise ConfigError(problems)
    return canaries


def _differs(config: Config, other: Config, key: str) -> bool:
    return bool(getattr(config, key) != getattr(other, key))
