"""Every metric of edged on one screen.

Labels are names from the configuration and words from fixed lists; no file name is ever one. Every labelled series
exists at zero from the start.
"""

import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from edged import __version__
from edged.errors import REASONS, JournalError
from edged.journal.journal import Journal
from edged.journal.labels import LABELS
from edged.sources.contract import STATES

OUTCOMES = ("ok", "anomaly", "quarantined")
STAGES = ("decode", "denoise", "infer", "commit", "publish")
SKIPPED = ("symlink", "not_a_file", "unreadable_folder")

_STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ARRIVAL_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_RATIO_BUCKETS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)


class Metrics:
    """The metrics of one daemon, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which nothing here needs
        self.registry = registry
        self.build = Info("edged_build", "Versions of what runs.", registry=registry)
        self.ready = Gauge("edged_ready", "1 while pictures are taken and scored, else 0.", registry=registry)
        self.model_info = Gauge(
            "edged_model_info",
            "1 for every loaded model; provider is what ONNX Runtime really runs it on.",
            ["model", "kind", "sha256", "provider", "precision"],
            registry=registry,
        )
        self.model_threshold = Gauge(
            "edged_model_threshold", "An anomaly is a score above this.", ["model"], registry=registry
        )
        self.model_fallback = Gauge(
            "edged_model_fallback",
            'Set to 1 where device = "auto" found CUDA and had to run on the CPU.',
            ["model"],
            registry=registry,
        )
        self.images = Counter(
            "edged_images_total",
            "Pictures with a durable result, and frames of streams, by what became of them.",
            ["source", "outcome"],
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "edged_stage_duration_seconds",
            "Time a picture took in a stage; commit and publish: a batch.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}  # several a picture
        self.arrival_to_result_seconds = Histogram(
            "edged_arrival_to_result_seconds",
            "From the first sight of a file to its durable result.",
            ["source"],
            buckets=_ARRIVAL_BUCKETS,
            registry=registry,
        )
        self.score_ratio = Histogram(
            "edged_score_ratio",
            "Score divided by threshold; an anomaly is above 1.",
            ["source", "model"],
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )
        self.queue_items = Gauge(
            "edged_queue_items", "Pictures that are known to wait or are in flight.", ["source"], registry=registry
        )
        self.queue_oldest_age_seconds = Gauge(
            "edged_queue_oldest_age_seconds", "Time the oldest of them has waited.", ["source"], registry=registry
        )
        self.quarantined = Counter(
            "edged_quarantined_total", "Pictures that cannot be scored.", ["source", "reason"], registry=registry
        )
        self.skipped = Counter(
            "edged_skipped_total",
            "What is not a picture file and was passed over.",
            ["source", "reason"],
            registry=registry,
        )
        self.multi_page = Counter(
            "edged_multi_page_total",
            "Files with several pages, of which the first was scored.",
            ["source"],
            registry=registry,
        )
        self.other_shape = Counter(
            "edged_other_shape_total",
            "Pictures of another shape or scale than those of training.",
            ["source"],
            registry=registry,
        )
        self.frames_dropped = Counter(
            "edged_stream_frames_dropped_total",
            "Pictures that made room for newer ones before they were scored.",
            ["source"],
            registry=registry,
        )
        self.watch_overflows = Counter(
            "edged_watch_overflows_total", "Times that inotify lost events.", ["source"], registry=registry
        )
        self.rescan_recovered = Counter(
            "edged_rescan_recovered_total",
            "Files found by a scan that no event told of.",
            ["source"],
            registry=registry,
        )
        self.source_up = Gauge(
            "edged_source_up", "1 while the source can be read, else 0.", ["source"], registry=registry
        )
        self.source_state = Gauge(
            "edged_source_state",
            "1 for the state that a stream is in, else 0.",
            ["source", "state"],
            registry=registry,
        )
        self.score_drift = Gauge(
            "edged_score_drift",
            "How far the last scores are from those of calibration: psi, and p_value of a two-sample test.",
            ["source", "model", "statistic"],
            registry=registry,
        )
        self.input_drift = Gauge(
            "edged_input_drift",
            "How far the look of the last pictures is from that of good ones at training, as PSI.",
            ["source", "statistic"],
            registry=registry,
        )
        self.last_result_timestamp_seconds = Gauge(
            "edged_last_result_timestamp_seconds",
            "When the last result became durable, seconds since 1970; 0 for never.",
            ["source"],
            registry=registry,
        )
        self.sink_failures = Counter(
            "edged_sink_failures_total", "Tries to give results to a sink that failed.", ["sink"], registry=registry
        )
        self.sink_dead_letters = Counter(
            "edged_sink_dead_letters_total",
            "Records that a sink refused for good, set aside.",
            ["sink"],
            registry=registry,
        )
        self.sink_dropped = Counter(
            "edged_sink_dropped_total",
            "Records that a sink will not be given: too many waited for it, or the journal was full.",
            ["sink"],
            registry=registry,
        )
        self.outbox_items = Gauge(
            "edged_outbox_items", "Results that a sink has not been given.", ["sink"], registry=registry
        )
        self.self_test_ok = Gauge(
            "edged_self_test_ok",
            "1 while sampled and golden pictures come through as they should, else 0; for models with "
            "self_test_seconds.",
            ["model"],
            registry=registry,
        )
        self.self_test_score_ratio = Gauge(
            "edged_self_test_score_ratio",
            "Score / threshold of the last sampled picture.",
            ["model"],
            registry=registry,
        )
        # The names of a release ago.
        self.canary_ok = Gauge("edged_canary_ok", "As edged_self_test_ok.", ["model"], registry=registry)
        self.canary_score_ratio = Gauge(
            "edged_canary_score_ratio", "As edged_self_test_score_ratio.", ["model"], registry=registry
        )
        self.labels = Counter(
            "edged_labels_total", "Labels that people gave to results.", ["source", "label"], registry=registry
        )
        self.config_reload_success = Gauge(
            "edged_config_reload_success", "1 unless the last reload was refused.", registry=registry
        )
        self.config_reload_success_timestamp = Gauge(
            "edged_config_reload_success_timestamp_seconds",
            "When a configuration was last taken, in seconds since 1970.",
            registry=registry,
        )
        self.journal_bytes = Gauge("edged_journal_bytes", "Size of the journal on the disk.", registry=registry)
        self.journal_damaged_files = Gauge(
            "edged_journal_damaged_files",
            "Damaged journals that were set aside and are still beside the journal.",
            registry=registry,
        )

    def declare(
        self, *, onnxruntime: str, sources: Mapping[str, str], sinks: Iterable[str], streams: Iterable[str] = ()
    ) -> None:
        """Sets what is constant, and brings labelled series into being at zero.

        Args:
            onnxruntime: its version.
            sources: the model of each.
            sinks: their names.
            streams: those of the sources that have states.
        """
        self.build.info({"version": __version__, "python": platform.python_version(), "onnxruntime": onnxruntime})
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for sink in sinks:
            self.sink_failures.labels(sink)
            self.sink_dead_letters.labels(sink)
            self.sink_dropped.labels(sink)
            self.outbox_items.labels(sink)
        for source in streams:
            for state in STATES:
                self.source_state.labels(source, state)
        for source, model in sources.items():
            self.score_ratio.labels(source, model)
            for outcome in OUTCOMES:
                self.images.labels(source, outcome)
            for reason in REASONS:
                self.quarantined.labels(source, reason)
            for reason in SKIPPED:
                self.skipped.labels(source, reason)
            for label in LABELS:
                self.labels.labels(source, label)
            for family in (
                self.arrival_to_result_seconds,
                self.queue_items,
                self.queue_oldest_age_seconds,
                self.multi_page,
                self.other_shape,
                self.frames_dropped,
                self.watch_overflows,
                self.rescan_recovered,
                self.source_up,
                self.last_result_timestamp_seconds,
            ):
                family.labels(source)

    def declare_model(
        self, *, model: str, kind: str, sha256: str, provider: str, precision: str, fell_back: bool, threshold: float
    ) -> None:
        """Shows one loaded model."""
        self.model_info.labels(model, kind, sha256, provider, precision).set(1)
        self.model_threshold.labels(model).set(threshold)
        self.model_fallback.labels(model).set(fell_back)

    def stage(self, stage: str, seconds: float) -> None:
        """Observes the time that a picture, or a batch, took in a stage."""
        self._stages[stage].observe(seconds)

    def drift(self, source: str, model: str, inputs: Mapping[str, float], *, index: float, p_value: float) -> None:
        """Shows how far a source is from calibration; `inputs` is the PSI of each statistic of its pictures."""
        for statistic, value in inputs.items():
            self.input_drift.labels(source, statistic).set(value)
        self.score_drift.labels(source, model, "psi").set(index)
        self.score_drift.labels(source, model, "p_value").set(p_value)

    def self_test(self, model: str) -> tuple[Callable[[bool], None], Callable[[float], None]]:
        """Shows a self-test that has not come through yet; what sets whether it passes, and its ratio."""
        ok = [family.labels(model) for family in (self.self_test_ok, self.canary_ok)]
        ratio = [family.labels(model) for family in (self.self_test_score_ratio, self.canary_score_ratio)]

        def set_ok(is_ok: bool) -> None:
            for gauge in ok:
                gauge.set(is_ok)

        def set_ratio(value: float) -> None:
            for gauge in ratio:
                gauge.set(value)

        set_ok(False)
        set_ratio(math.nan)
        return set_ok, set_ratio

    def forget_models(self) -> None:
        """Removes the series of all models, before others are shown."""
        for family in (
            self.model_info,
            self.model_threshold,
            self.model_fallback,
            self.self_test_ok,
            self.self_test_score_ratio,
            self.canary_ok,
            self.canary_score_ratio,
        ):
            family.clear()

    def forget_source(self, source: str) -> None:
        """Removes the series of a source that is no longer configured."""
        for family in (
            self.images,
            self.quarantined,
            self.skipped,
            self.labels,
            self.score_ratio,
            self.arrival_to_result_seconds,
            self.queue_items,
            self.queue_oldest_age_seconds,
            self.multi_page,
            self.other_shape,
            self.frames_dropped,
            self.watch_overflows,
            self.rescan_recovered,
            self.source_up,
            self.source_state,
            self.last_result_timestamp_seconds,
        ):
            family.remove_by_labels({"source": source})
        self.forget_drift(source)

    def forget_drift(self, source: str) -> None:
        """Removes what was said of a source's drift from another model or calibration."""
        for family in (self.score_drift, self.input_drift):
            family.remove_by_labels({"source": source})

    def watch_queue(self, source: str, pending: Callable[[], tuple[int, float | None]]) -> None:
        """Reads a source's queue at every scrape; `pending` gives its length and the oldest's monotonic time."""

        def age() -> float:
            oldest = pending()[1]
            return 0.0 if oldest is None else max(0.0, time.monotonic() - oldest)

        self.queue_items.labels(source).set_function(lambda: pending()[0])
        self.queue_oldest_age_seconds.labels(source).set_function(age)

    def watch_journal(self, journal: Journal, sinks: Iterable[str]) -> None:
        """Reads the journal's size and every sink's backlog at every scrape; not a number while it cannot be read."""

        def read(function: Callable[[], int]) -> float:
            try:
                return function()
            except (JournalError, OSError):
                return math.nan

        self.journal_bytes.set_function(lambda: read(journal.size_bytes))
        self.journal_damaged_files.set_function(lambda: read(lambda: len(journal.set_aside())))
        for sink in sinks:
            self.outbox_items.labels(sink).set_function(partial(read, partial(journal.backlog, sink)))


class SourceObserver:
    """What sources tell while they work (`sources.contract.Observer`), as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.down: set[str] = set()
        self.troubled: dict[str, str] = {}
        """Streams that are not what they should be, by their names: why."""

    def skipped(self, source: str, reason: str) -> None:
        """Something that is not a picture file was passed over."""
        self._metrics.skipped.labels(source, reason).inc()

    def overflowed(self, source: str) -> None:
        """Events of inotify were lost."""
        self._metrics.watch_overflows.labels(source).inc()

    def recovered(self, source: str, count: int) -> None:
        """A scan found files that no event had told of."""
        self._metrics.rescan_recovered.labels(source).inc(count)

    def up(self, source: str, is_up: bool) -> None:
        """The source can be read, or no longer."""
        self._metrics.source_up.labels(source).set(is_up)
        (self.down.discard if is_up else self.down.add)(source)

    def state(self, source: str, state: str, why: str = "") -> None:
        """A stream is in another state; `why` in words, where that is a problem."""
        for one in STATES:
            self._metrics.source_state.labels(source, one).set(one == state)
        if why:
            self.troubled[source] = f"source {source} is in the state {state}: {why}"
        else:
            self.troubled.pop(source, None)

    def dropped(self, source: str, count: int) -> None:
        """Frames were passed over because a newer one came before they could be scored."""
        self._metrics.frames_dropped.labels(source).inc(count)
