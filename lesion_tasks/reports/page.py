"""A bundle -> the files of its report folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lesion_tasks.reports import charts, data_views, views
from lesion_tasks.reports.bundle import metrics_json, schema_json
from lesion_tasks.reports.checklist import (
    by_section,
    checklist_json,
    checklist_markdown,
    fill_checklist,
    totals,
)
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.model_card import model_card

File = tuple[bytes, str]


def render_bundle(bundle: Mapping[str, Any]) -> dict[str, File]:
    """Render `report.html` and everything beside it: file name -> (bytes, content type).

    `bundle` is described by `bundle.schema.json`. ValueError when it holds NaN or infinity.
    """
    from lesion_tasks.reports.pictures import pictures

    files: dict[str, File] = {
        "metrics.json": (metrics_json(bundle), "application/json"),
        "metrics.schema.json": (schema_json(), "application/schema+json"),
        "model_card.md": (model_card(bundle).encode(), "text/markdown; charset=utf-8"),
        "checklist.md": (checklist_markdown(bundle).encode(), "text/markdown; charset=utf-8"),
        "checklist.json": (checklist_json(bundle), "application/json"),
        "report.html": (render_page(bundle).encode(), "text/html; charset=utf-8"),
    }
    files |= {name: (data, "image/png") for name, data in pictures(bundle).items()}
    return files


def render_page(bundle: Mapping[str, Any]) -> str:
    """Render the page alone."""
    document = views.leading_document(bundle)
    documents = {name: bundle["subsets"][name] for name in views.SUBSET_ORDER if name in bundle["subsets"]}
    items = fill_checklist(bundle)
    # A training that was scored on another manifest than its own lies one folder deeper.
    is_own = bundle["training"]["manifest_digest"] == bundle["manifest"]["digest"]
    root = "../" if is_own else "../../"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            bundle=bundle,
            training=bundle["training"],
            manifest=bundle["manifest"],
            document=document,
            documents=documents,
            performance=None if document is None else _performance(document),
            checks=views.checks(bundle["integrity"]),
            index_path=f"{root}index.html",
            data_root=f"{root}data/",
            is_apart=views.is_apart(bundle["integrity"]),
            check_summary=views.check_summary(bundle["integrity"]),
            figure_groups=views.figure_groups(documents),
            comparison=bundle["comparison"],
            leading_difference=views.leading_difference(bundle["comparison"], document),
            comparison_rows=views.comparison_rows(bundle["comparison"]),
            slice_differences=views.slice_differences(bundle["comparison"], bundle.get("promotion")),
            promotion=bundle.get("promotion"),
            gate_rows=views.gate_rows(bundle.get("promotion"), document, bundle["comparison"]),
            examples=data_views.examples(bundle),
            training_charts=charts.training_charts(bundle["epochs"]),
            best_epoch=charts.best_epoch(bundle["epochs"]),
            funnel=data_views.funnel_rows(bundle["manifest"]["funnel"]),
            changes=data_views.change_tables(bundle["data_changes"]),
            data_tables=data_views.data_tables(bundle["data"]),
            checklist_sections=by_section(items),
            checklist_totals=totals(items),
        )
    )


def _performance(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of the leading subset."""
    curves = document["curves"]
    return {
        "measure": views.leading_measure(document),
        "headline": views.headline_figures(document),
        "roc": charts.roc_chart(document),
        "precision_recall": charts.precision_recall_chart(document),
        "calibration": charts.calibration_chart(document),
        "net_benefit": charts.net_benefit_chart(document),
        "roc_keys": views.curve_keys(document, "roc", "auc"),
        "precision_keys": views.curve_keys(document, "precision_recall", "average_precision"),
        "tables": {
            "roc": {name: views.curve_table(curve) for name, curve in curves["roc"].items() if curve},
            "precision_recall": {
                name: views.curve_table(curve) for name, curve in curves["precision_recall"].items() if curve
            },
            "calibration": views.curve_table(curves["calibration"]) if curves["calibration"] else None,
            "net_benefit": views.curve_table(curves["net_benefit"]) if curves["net_benefit"] else None,
        },
        "confusion": views.confusion_rows(document),
        "frequencies": views.natural_frequencies(document),
        "classes": views.class_rows(document),
        "slices": views.slice_groups(document),
        "lowest_slice": views.lowest_slice(document),
        "slice_columns": views.slice_columns(document),
        "slice_scale": views.slice_scale(document),
    }
