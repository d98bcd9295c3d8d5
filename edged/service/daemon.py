"""The daemon: start in order, loop, stop in reverse.

Signals are noted in a pipe and read by the main thread when it is not in the middle of something: SIGTERM and SIGINT
stop, SIGHUP reloads models, thresholds and sources; a second SIGTERM or SIGINT kills.
"""

import contextlib
import faulthandler
import os
import select
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from edged import __version__, failpoints
from edged.config import loading as configuration
from edged.config.tables import Config
from edged.errors import EdgedError, JournalError
from edged.journal import labels
from edged.journal.journal import Journal
from edged.media.decoding import MAX_ATTEMPTS
from edged.models import registry
from edged.models.runtime import runtime_version, worker_count
from edged.service import labelled, logs, reloading
from edged.service.health import of_source
from edged.service.memory import give_back, set_aside_what_stays, share_arenas
from edged.service.metrics import Metrics, SourceObserver
from edged.service.pipeline import Pipeline
from edged.service.publisher import Publisher
from edged.service.reloading import ReloadRefusedError
from edged.service.retention import Retention
from edged.service.status import Running, reload_refused, report
from edged.service.systemd import Notifier
from edged.settings import SourceTable
from edged.sinks import SINKS
from edged.sinks.contract import DrawingStore, PictureSink, SinkContext
from edged.sources import SOURCES
from edged.sources.contract import SourceContext
from edged.sources.spool import UNOWNED, unowned
from edged.sources.uploads import UploadSource
from edged.web.allowance import Allowance
from edged.web.app import make_app
from edged.web.server import Server
from edged.web.site import Site
from edged.web.status import Status

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
        self._uploads_to: dict[str, UploadSource] = {}
        self._started_at = time.time()

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
        with contextlib.ExitStack() as started:
            with self._notifier.starting():  # a journal that is damaged, or of an older edged, takes its time
                self._journal = Journal(config.service.state_dir, on_damage=self._wake)
            started.callback(self._journal.close)  # else the next start takes this one for a crash
            self._models = registry.load(config.models, config.sources)
            self._metrics = Metrics(CollectorRegistry())
            self._observer = SourceObserver(self._metrics)
            self._server = self._make_server(config)
            started.callback(self._server.close)
            self._make_workers(config)
            self._declare(config)
            self._server.start()
            started.pop_all()
        set_aside_what_stays()
        give_back()
        try:
            self._pipeline.start()
            self._pipeline.set_scorers(self._models.of_sources)
            self._pipeline.set_self_tests(self._models.self_tests)
            for source in config.sources:
                self._add_source(source)
        except BaseException:
            self._stop()
            raise
        self._phase = ""
        self._took_configuration()
        self._log.info("ready", http=self._server.url, sources=[source.name for source in config.sources])
        self._notifier.ready(f"watching {len(config.sources)} source(s)")
        self._checker.start()  # a look at every page takes minutes, which nobody is to wait for

    def _make_workers(self, config: Config) -> None:
        context = SinkContext(config.service.state_dir, config.retention, [source.name for source in config.sources])
        publishers, pictures = [], []
        self._drawings: list[DrawingStore] = []
        for table in config.sinks:
            sink = SINKS[table.type].make(table, context)
            if isinstance(sink, DrawingStore):
                self._drawings.append(sink)
            if isinstance(sink, PictureSink):
                pictures.append(sink)
            else:
                publishers.append(Publisher(sink, table, self._journal, self._metrics))
        self._outbox = [publisher.name for publisher in publishers]
        self._pipeline = Pipeline(
            journal=self._journal,
            metrics=self._metrics,
            limits=config.limits,
            workers=worker_count(),
            publishers=publishers,
            picture_sinks=pictures,
        )
        self._retention = Retention(
            self._journal,
            config.retention,
            self._metrics,
            sinks=self._outbox,
            pictures=pictures,
            tidy=[kind.tidy(self._journal, config.retention) for kind in SOURCES.values() if kind.tidy is not None],
        )
        self._checker = threading.Thread(target=self._check_journal, name="journal-check")

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
        try:
            change = reloading.plan(self._path, self._config, self._models)
            if not self._pipeline.drain(change.leaving, _DRAIN_PATIENCE_S):
                why = "pictures of a source that changes are still in flight"
                raise ReloadRefusedError(why, sources=change.leaving)
        except ReloadRefusedError as refused:
            self._log.error(f"not reloaded; {refused}", **refused.details)
            self._metrics.config_reload_success.set(0)
            self._notifier.ready("reload failed; the running configuration stays")
            return
        for name in change.leaving:
            self._uploads_to.pop(name, None)
            self._pipeline.remove_source(name)
            self._observer.down.discard(name)
            self._observer.troubled.pop(name, None)
            self._metrics.forget_source(name)
        config = self._config = change.config
        self._models = change.models
        self._declare(config)
        self._pipeline.set_scorers(self._models.of_sources)
        self._pipeline.set_self_tests(self._models.self_tests)
        give_back()
        for source in config.sources:
            if source.name not in change.staying:
                self._add_source(source)
        self._log.info("reloaded")
        self._took_configuration()
        self._notifier.ready(f"watching {len(config.sources)} source(s)")

    def _took_configuration(self) -> None:
        self._metrics.config_reload_success.set(1)
        self._metrics.config_reload_success_timestamp.set_to_current_time()
        owners = [table.name for table in self._config.sources if SOURCES[table.type].is_spooled]
        for folder, count in unowned(self._config.service.state_dir, owners).items():
            self._log.error(UNOWNED, source=folder.name, pictures=count, folder=str(folder))

    def _declare(self, config: Config) -> None:
        self._metrics.declare(
            onnxruntime=runtime_version(),
            sources={source.name: source.model for source in config.sources},
            sinks=[sink.name for sink in config.sinks],
            streams=_streams(config),
        )
        self._metrics.forget_models()
        for name, scorer in self._models.by_name.items():
            self._metrics.declare_model(
                model=name,
                kind=scorer.bundle.manifest.kind,
                sha256=scorer.bundle.model_sha256,
                provider=scorer.session.provider,
                precision=scorer.bundle.manifest.precision,
                fell_back=scorer.session.fell_back is not None,
                threshold=scorer.threshold.value,
            )
        self._metrics.ready.set_function(lambda: not self._problems())
        self._metrics.watch_journal(self._journal, self._outbox)

    def _add_source(self, table: SourceTable) -> None:
        spec, config = self._models.of_sources[table.name].view.input, self._config
        context = SourceContext(self._journal, self._observer, config.service.state_dir, spec, config.limits)
        source = SOURCES[table.type].make(table, context)
        if isinstance(source, UploadSource):
            self._uploads_to[table.name] = source
        self._pipeline.add_source(source)

    def _make_server(self, config: Config) -> Server:
        http = config.http
        site = Site(
            config.service.state_dir,
            self._status,
            self._overlay,
            self._label,
            lambda record: labelled.place_of(self._config, record),
            scorers=lambda: self._models.by_name,
            peaks=lambda: {name: self._pipeline.peaks.of(name) for name in _streams(self._config)},
        )
        app = make_app(
            self._metrics.registry,
            lambda: list(self._problems().values()),
            token=http.token(),
            site=site,
            uploads_to=self._uploads_to.get,
            notes=partial(reload_refused, self._metrics),
            allowance=Allowance(),
        )
        return Server(app, http.address, tls_cert=http.tls_cert, tls_key=http.tls_key, tls_client_ca=http.tls_client_ca)

    def _problems(self) -> dict[str, str]:
        """Why the daemon is not ready, in words, by where that is: a source has one, which says most."""
        if self._phase:
            return {"daemon": self._phase}
        found = self._pipeline.problems()
        if stuck := self._stuck():
            found["workers"] = f"workers are stuck: {', '.join(stuck)}"
        if self._journal.damage is not None:
            found["journal"] = "the journal is damaged"
        found |= {of_source(name): text for name, text in sorted(self._observer.troubled.copy().items())}
        down = self._observer.down.copy()  # this is another thread than the one that reloads
        if len(down) == len(self._config.sources):
            found = {of_source(name): f"source {name} cannot be read" for name in sorted(down)} | found
        return found

    def _status(self) -> Status:
        """How the daemon is; called from the server's threads."""
        pipeline, config = self._pipeline, self._config
        running = Running(
            config.sources,
            self._models,
            self._outbox,
            self._started_at,
            pipeline.drifting(),
            {name: pipeline.peaks.last_minute(name) for name in _streams(config)},
        )
        return report(running, self._problems(), self._journal, self._metrics, self._observer)

    def _overlay(self, id_: str) -> bytes | None:
        """What was drawn of a result, as it stands on the disk; called from the server's threads."""
        return next((drawn for store in self._drawings if (drawn := store.read(id_)) is not None), None)

    def _label(self, id_: str, label: str | None, note: str) -> bool:
        """Labels a result; whether there is one. Called from the server's threads."""
        source = labels.put(self._journal, id_, label, note)
        if source is not None and label is not None:
            self._metrics.labels.labels(source, label).inc()
        return source is not None

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


def _streams(config: Config) -> list[str]:
    return [source.name for source in config.sources if SOURCES[source.type].is_stream]


def _note(_: int, __: object) -> None:
    """The signal is in the pipe already."""
