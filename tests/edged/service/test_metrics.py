import threading
import time

from prometheus_client import CollectorRegistry

from edged.service.metrics import Metrics, SourceObserver
from edged.web.exposition import exposition

CONTRACT = {
    "edged_build_info": {"version", "python", "onnxruntime"},
    "edged_ready": set(),
    "edged_model_info": {"model", "kind", "sha256", "provider", "precision"},
    "edged_model_threshold": {"model"},
    "edged_images_total": {"source", "outcome"},
    "edged_stage_duration_seconds": {"stage"},
    "edged_arrival_to_result_seconds": {"source"},
    "edged_score_ratio": {"source", "model"},
    "edged_queue_items": {"source"},
    "edged_queue_oldest_age_seconds": {"source"},
    "edged_quarantined_total": {"source", "reason"},
    "edged_watch_overflows_total": {"source"},
    "edged_rescan_recovered_total": {"source"},
    "edged_source_up": {"source"},
    "edged_last_result_timestamp_seconds": {"source"},
    "edged_sink_failures_total": {"sink"},
    "edged_outbox_items": {"sink"},
    "edged_journal_bytes": set(),
}


def declared() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.declare(onnxruntime="onnxruntime 1", sources={"line1": "solar", "line2": "tiles"}, sinks=["lines"])
    metrics.declare_model(
        model="solar", kind="ae", sha256="ab", provider="CPU", precision="fp32", fell_back=True, threshold=0.5
    )
    return metrics


def test_names_and_labels_are_the_contracts() -> None:
    found: dict[str, set[str]] = {}
    for family in declared().registry.collect():
        for sample in family.samples:
            name = sample.name
            for ending in ("_bucket", "_count", "_sum"):
                name = name.removesuffix(ending)
            found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    assert {name: found.get(name) for name in CONTRACT} == CONTRACT
    assert all(name.startswith("edged_") for name in found)
    assert not [name for name in found if name.endswith("_created")]


def test_every_family_says_what_it_is() -> None:
    text = exposition(declared().registry, "")[0].decode()
    odd = exposition(declared().registry, "application/openmetrics-text; version=abc")
    assert odd[1].startswith("text/plain")
    for family in declared().registry.collect():
        assert family.documentation.endswith("."), family.name
        assert f"# HELP {family.name}" in text


def test_two_daemons_of_one_process_share_nothing() -> None:
    one, other = declared(), declared()
    one.images.labels("line1", "ok").inc()
    labels = {"source": "line1", "outcome": "ok"}
    assert one.registry.get_sample_value("edged_images_total", labels) == 1
    assert other.registry.get_sample_value("edged_images_total", labels) == 0


def test_models_are_shown_anew() -> None:
    metrics = declared()
    assert metrics.registry.get_sample_value("edged_model_fallback", {"model": "solar"}) == 1
    metrics.forget_models()
    metrics.declare_model(
        model="tiles", kind="vae", sha256="cd", provider="CPU", precision="fp16", fell_back=False, threshold=2.0
    )
    assert metrics.registry.get_sample_value("edged_model_threshold", {"model": "solar"}) is None
    assert metrics.registry.get_sample_value("edged_model_threshold", {"model": "tiles"}) == 2.0
    assert metrics.registry.get_sample_value("edged_model_fallback", {"model": "tiles"}) == 0


def test_queues_are_read_at_every_scrape() -> None:
    metrics, waiting = declared(), [(3, time.monotonic() - 10)]
    metrics.watch_queue("line1", lambda: waiting[0])
    labels = {"source": "line1"}
    assert metrics.registry.get_sample_value("edged_queue_items", labels) == 3
    assert 10 <= (metrics.registry.get_sample_value("edged_queue_oldest_age_seconds", labels) or 0) < 60
    waiting[0] = (0, None)  # type: ignore[assignment]
    assert metrics.registry.get_sample_value("edged_queue_items", labels) == 0
    assert metrics.registry.get_sample_value("edged_queue_oldest_age_seconds", labels) == 0


def test_events_of_sources() -> None:
    metrics = declared()
    events = SourceObserver(metrics)
    events.skipped("line1", "symlink")
    events.overflowed("line1")
    events.recovered("line1", 3)
    events.up("line1", True)
    events.up("line2", False)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("edged_skipped_total", source="line1", reason="symlink") == 1
    assert value("edged_watch_overflows_total", source="line1") == 1
    assert value("edged_rescan_recovered_total", source="line1") == 3
    assert (value("edged_source_up", source="line1"), value("edged_source_up", source="line2")) == (1, 0)
    assert events.down == {"line2"}
    events.up("line2", True)
    assert events.down == set()


def test_scrapes_and_counts_at_once() -> None:
    metrics = declared()

    def count() -> None:
        for _ in range(2000):
            metrics.images.labels("line1", "ok").inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        exposition(metrics.registry, "")
    for thread in threads:
        thread.join()
    assert metrics.registry.get_sample_value("edged_images_total", {"source": "line1", "outcome": "ok"}) == 8000
