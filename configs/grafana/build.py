"""Builds edged.json, the dashboard: all boxes, and one in depth. Long, for it is read from top to bottom.

Run from the checkout, after a change here: make dashboard
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUT = Path(__file__).with_name("edged.json")

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
BOX = 'instance=~"$instance"'
ONE = f'{BOX},source=~"$source"'
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Query = tuple[str, str]
"""PromQL, and how its series are called."""


def main() -> None:
    """Writes the file."""
    OUT.write_text(text(), encoding="utf-8")


def text() -> str:
    """What edged.json holds."""
    return JSONEncoder(sort_keys=True, indent=2).encode(build().build()) + "\n"


def build() -> dashboard.Dashboard:
    """The dashboard, row by row."""
    built = (
        dashboard.Dashboard("edged")
        .uid("edged")
        .description("Anomaly detection on pictures: every box at a glance, and one box in depth.")
        .tags(["edged"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("instance", "Box", "label_values(edged_ready, instance)"))
        .with_variable(
            _variable("source", "Source", f"label_values(edged_source_up{{{BOX}}}, source)")
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    ids = count(1)
    for title, panels in (
        ("All boxes", _fleet()),
        ("$instance: how it is", _state()),
        ("$instance: what it finds", _findings()),
        ("$instance: whether it keeps up", _pace()),
        ("$instance: drift", _drift()),
        ("$instance: where results go, and what was passed over", _rest()),
    ):
        built.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            built.with_panel(panel.id(next(ids)))
    return built


def _fleet() -> list[Any]:
    by_box = [
        ("max by (instance) (edged_ready)", "ready"),
        ("sum by (instance) (instance_source:edged_images_total:rate5m)", "pictures a second"),
        ("max by (instance) (instance_source:edged_anomalies:ratio1h)", "anomalies, last hour"),
        ("max by (instance) (edged_queue_oldest_age_seconds)", "longest wait"),
        ("max by (instance) (edged_config_reload_success)", "configuration taken"),
        ("max by (instance, version) (edged_build_info)", "edged"),
    ]
    return [
        _stat("Boxes", "count(edged_ready)", width=4),
        _stat("Not well", "count(edged_ready == 0) or vector(0)", width=4, levels=((0, GREEN), (1, RED))),
        _stat("Pictures a second", "sum(instance_source:edged_images_total:rate5m)", width=4, decimals=1),
        _stat("Pictures, last 24 h", "sum(increase(edged_images_total[24h]))", width=4, decimals=0),
        _stat("Anomalies, last 24 h", 'sum(increase(edged_images_total{outcome="anomaly"}[24h]))', width=4, decimals=0),
        _stat(
            "Alerts that fire",
            'count(ALERTS{alertstate="firing",alertname=~"Edged.*"}) or vector(0)',
            width=4,
            levels=((0, GREEN), (1, RED)),
        ),
        _boxes(by_box),
        _lines(
            "Pictures a second",
            ("sum by (instance) (instance_source:edged_images_total:rate5m)", "{{instance}}"),
            width=8,
        ),
        _lines(
            "Share of anomalies, the last hour before each moment",
            ("instance_source:edged_anomalies:ratio1h", "{{instance}} {{source}}"),
            width=8,
            unit="percentunit",
        ),
        _lines(
            "95 of 100 pictures have their result within",
            ("instance_source:edged_arrival_to_result_seconds:p95_5m", "{{instance}} {{source}}"),
            width=8,
            unit="s",
        ),
    ]


def _state() -> list[Any]:
    words = {"0": "no", "1": "yes"}
    yes_or_no = {"levels": ((0, RED), (1, GREEN)), "words": words, "width": 4}
    return [
        _stat("Takes and scores pictures", f"edged_ready{{{BOX}}}", **yes_or_no),
        _stat("Took its last configuration", f"edged_config_reload_success{{{BOX}}}", **yes_or_no),
        _stat(
            "Configuration taken",
            f"edged_config_reload_success_timestamp_seconds{{{BOX}}} * 1000",
            width=4,
            unit="dateTimeFromNow",
        ),
        _stat(
            "Last result",
            f"max(edged_last_result_timestamp_seconds{{{ONE}}} > 0) * 1000",
            width=4,
            unit="dateTimeFromNow",
        ),
        _stat("Journal", f"edged_journal_bytes{{{BOX}}}", width=4, unit="bytes"),
        _stat(
            "Damaged journals set aside",
            f"edged_journal_damaged_files{{{BOX}}}",
            width=4,
            levels=((0, GREEN), (1, RED)),
        ),
        _table("What runs", [f"edged_build_info{{{BOX}}}"], width=8),
        _table("Models", [f"edged_model_info{{{BOX}}}"], width=16),
        _lines("Thresholds", (f"edged_model_threshold{{{BOX}}}", "{{model}}"), width=8),
        _lines("Fell back from CUDA to the CPU", (f"edged_model_fallback{{{BOX}}}", "{{model}}"), width=8),
        _lines(
            "Self-tests, for models that have one",
            (f"edged_self_test_ok{{{BOX}}}", "{{model}} passes"),
            (f"edged_self_test_score_ratio{{{BOX}}}", "{{model}} score / threshold"),
            width=8,
        ),
        _timeline("Sources that can be read", (f"edged_source_up{{{ONE}}}", "{{source}}"), width=12, words=words),
        _timeline("States of videos", (f"edged_source_state{{{ONE}}} == 1", "{{source}} {{state}}"), width=12),
    ]


def _findings() -> list[Any]:
    ratio = f"sum by (source, model, le) (rate(edged_score_ratio_bucket{{{ONE}}}[$__rate_interval]))"
    return [
        _lines(
            "Results a second",
            (
                f"sum by (source, outcome) (rate(edged_images_total{{{ONE}}}[$__rate_interval]))",
                "{{source}} {{outcome}}",
            ),
        ),
        _lines(
            "Share of anomalies, the last hour before each moment",
            (f"instance_source:edged_anomalies:ratio1h{{{ONE}}}", "{{source}}"),
            unit="percentunit",
        ),
        _lines(
            "Score / threshold: above 1 is an anomaly",
            (f"histogram_quantile(0.5, {ratio})", "{{source}} {{model}} half of them below"),
            (f"histogram_quantile(0.95, {ratio})", "{{source}} {{model}} 95 of 100 below"),
            limit=1,
        ),
        _scores(f"sum by (le) (increase(edged_score_ratio_bucket{{{ONE}}}[$__rate_interval]))"),
        _lines(
            "Could not be scored, in an hour",
            (
                f"sum by (source, reason) (increase(edged_quarantined_total{{{ONE}}}[1h])) > 0",
                "{{source}} {{reason}}",
            ),
        ),
        _lines(
            "What people said of results, in a day",
            (f"sum by (source, label) (increase(edged_labels_total{{{ONE}}}[24h]))", "{{source}} {{label}}"),
        ),
    ]


def _pace() -> list[Any]:
    arrival = f"sum by (source, le) (rate(edged_arrival_to_result_seconds_bucket{{{ONE}}}[$__rate_interval]))"
    return [
        _lines(
            "From the first sight of a file to its result",
            (f"histogram_quantile(0.5, {arrival})", "{{source}} half of them within"),
            (f"histogram_quantile(0.95, {arrival})", "{{source}} 95 of 100 within"),
            unit="s",
        ),
        _lines(
            "Time of a picture (commit, publish: of a batch)",
            (
                f"sum by (stage) (rate(edged_stage_duration_seconds_sum{{{BOX}}}[$__rate_interval])) / "
                f"sum by (stage) (rate(edged_stage_duration_seconds_count{{{BOX}}}[$__rate_interval]))",
                "{{stage}}",
            ),
            unit="s",
        ),
        _lines("Files that wait", (f"edged_queue_items{{{ONE}}}", "{{source}}")),
        _lines("The oldest has waited", (f"edged_queue_oldest_age_seconds{{{ONE}}}", "{{source}}"), unit="s"),
    ]


def _drift() -> list[Any]:
    return [
        _lines(
            "How far the pictures look from those of training (PSI)",
            (f"edged_input_drift{{{ONE}}}", "{{source}} {{statistic}}"),
            width=8,
            limit=0.25,
        ),
        _lines(
            "How far the scores are from those of calibration (PSI)",
            (f'edged_score_drift{{{ONE},statistic="psi"}}', "{{source}} {{model}}"),
            width=8,
            limit=0.25,
        ),
        _lines(
            "The same, as the p-value of a two-sample test",
            (f'edged_score_drift{{{ONE},statistic="p_value"}}', "{{source}} {{model}}"),
            width=8,
        ),
    ]


def _rest() -> list[Any]:
    def hourly(metric: str, labels: str) -> str:
        return f"sum by ({labels}) (increase(edged_{metric}_total{{{BOX if labels == 'sink' else ONE}}}[1h]))"

    return [
        _lines("Results that wait for a sink", (f"edged_outbox_items{{{BOX}}}", "{{sink}}")),
        _lines(
            "Sinks, in an hour",
            (hourly("sink_failures", "sink"), "{{sink}} failures"),
            (hourly("sink_dead_letters", "sink"), "{{sink}} refused for good"),
            (hourly("sink_dropped", "sink"), "{{sink}} dropped"),
        ),
        _lines(
            "Files, in an hour",
            (hourly("skipped", "source, reason"), "{{source}} skipped: {{reason}}"),
            (hourly("multi_page", "source"), "{{source}} of several pages"),
            (hourly("other_shape", "source"), "{{source}} of another shape"),
            (hourly("stream_frames_dropped", "source"), "{{source}} frames dropped"),
        ),
        _lines(
            "Events of folders, in an hour",
            (hourly("watch_overflows", "source"), "{{source}} overflows"),
            (hourly("rescan_recovered", "source"), "{{source}} found without an event"),
        ),
    ]


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _query(expression: str, number: int, legend: str = "") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).ref_id(chr(65 + number))


def _stat(
    title: str,
    expression: str,
    *,
    width: int,
    unit: str = "short",
    decimals: int | None = None,
    levels: Sequence[tuple[float, str]] = ((0, BLUE),),
    words: dict[str, str] | None = None,
) -> stat.Panel:
    panel = (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .span(width)
        .height(4)
        .unit(unit)
        .thresholds(_levels(levels))
        .with_target(_query(expression, 0).instant())
    )
    if decimals is not None:
        panel.decimals(decimals)
    return panel.mappings(_words(words)) if words else panel


def _lines(
    title: str, *queries: Query, width: int = 12, height: int = 8, unit: str = "short", limit: float | None = None
) -> timeseries.Panel:
    """A panel of lines, with a red one at `limit`."""
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(SOURCE)
        .span(width)
        .height(height)
        .unit(unit)
        .min(0)
        .legend(common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST).show_legend(True))
    )
    for number, (expression, legend) in enumerate(queries):
        panel.with_target(_query(expression, number, legend).range())
    if limit is not None:
        dashed = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(_levels(((0, "transparent"), (limit, RED)))).thresholds_style(dashed)
    return panel


def _scores(expression: str) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .title("Score / threshold, how many")
        .datasource(SOURCE)
        .span(12)
        .height(8)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .with_target(_query(expression, 0, "{{le}}").range().format(PromQueryFormat.HEATMAP))
    )


def _timeline(title: str, query: Query, *, width: int, words: dict[str, str] | None = None) -> statetimeline.Panel:
    panel = (
        statetimeline.Panel()
        .title(title)
        .datasource(SOURCE)
        .span(width)
        .height(6)
        .thresholds(_levels(((0, RED), (1, GREEN))))
        .with_target(_query(query[0], 0, query[1]).range())
    )
    return panel.mappings(_words(words)) if words else panel


def _table(title: str, expressions: Sequence[str], *, width: int) -> table.Panel:
    panel = table.Panel().title(title).datasource(SOURCE).span(width).height(5)
    for number, expression in enumerate(expressions):
        panel.with_target(_query(expression, number).instant().format(PromQueryFormat.TABLE))
    hidden = {"Time": True, "Value": True, "__name__": True, "job": True}
    return panel.with_transformation(models.DataTransformerConfig("organize", options={"excludeByName": hidden}))


def _boxes(queries: Sequence[Query]) -> table.Panel:
    """A row for each box, a column for each query."""
    panel = table.Panel().title("Boxes").datasource(SOURCE).span(24).height(8)
    for number, (expression, _) in enumerate(queries):
        panel.with_target(_query(expression, number).instant().format(PromQueryFormat.TABLE))
    names = {f"Value #{chr(65 + number)}": legend for number, (_, legend) in enumerate(queries[:-1])}
    units = {"anomalies, last hour": "percentunit", "longest wait": "s", "pictures a second": "short"}
    panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    hidden = {"Time": True, f"Value #{chr(64 + len(queries))}": True}
    options = {"excludeByName": hidden, "renameByName": {**names, "instance": "box"}}
    panel.with_transformation(models.DataTransformerConfig("organize", options=options))
    for column, unit in units.items():
        panel.override_by_name(column, [models.DynamicConfigValue("unit", unit)])
    return panel


def _levels(levels: Sequence[tuple[float, str]]) -> dashboard.ThresholdsConfig:
    (_, lowest), *others = levels
    steps = [models.Threshold(None, lowest), *(models.Threshold(value, colour) for value, colour in others)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _words(words: dict[str, str]) -> list[models.ValueMapping]:
    return [models.ValueMap({value: models.ValueMappingResult(text=word) for value, word in words.items()})]


if __name__ == "__main__":
    main()
