"""A bundle -> the files of its report folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lesion_tasks.metrics.document_schema import Published, SubsetDocument
from lesion_tasks.reports import charts, cohort_views, data_views, doubt_views, fairness_views, views
from lesion_tasks.reports.bundle import Bundle, metrics_json, schema_json
from lesion_tasks.reports.checklist import (
    by_section,
    checklist_json,
    checklist_markdown,
    fill_checklist,
    totals,
)
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.model_card import model_card
from lesion_tasks.reports.plot import Plot

File = tuple[bytes, str]


def render_bundle(bundle: Bundle) -> dict[str, File]:
    """Render `report.html` and everything beside it: file name -> (bytes, content type).

    Raises ValueError if the bundle holds NaN or infinity.
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


@dataclass(frozen=True, kw_only=True)
class Performance:
    """What the page shows of the leading subset."""

    measure: str
    headline: list[dict[str, Any]]
    roc: Markup | None
    precision_recall: Markup | None
    calibration: Markup | None
    net_benefit: Markup | None
    roc_keys: list[dict[str, Any]]
    precision_keys: list[dict[str, Any]]
    tables: dict[str, Any]
    confusion: list[dict[str, Any]]
    frequencies: list[views.Frequencies]
    classes: list[dict[str, Any]]
    slices: list[tuple[str, list[views.SliceRow]]]
    lowest_slice: dict[str, Any] | None
    slice_columns: tuple[str, ...]
    slice_scale: tuple[float, float]


def render_page(bundle: Bundle) -> str:
    """Render only the page."""
    document = views.leading_document(bundle)
    documents = views.ordered_documents(bundle)
    items = fill_checklist(bundle)
    # The report of a training on a manifest other than its own is one folder deeper.
    is_own = bundle.training.manifest_digest == bundle.manifest.digest
    root = "../" if is_own else "../../"
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            bundle=bundle,
            training=bundle.training,
            manifest=bundle.manifest,
            document=document,
            documents=documents,
            performance=None if document is None else _performance(document),
            checks=views.checks(bundle.integrity),
            index_path=f"{root}index.html",
            data_root=f"{root}data/",
            apart=views.apart_words(bundle),
            intervals=views.interval_words(bundle),
            check_summary=views.check_summary(bundle.integrity),
            figure_groups=views.figure_groups(documents),
            comparison=bundle.comparison,
            leading_difference=views.leading_difference(bundle.comparison, document),
            comparison_rows=views.comparison_rows(bundle.comparison),
            slice_differences=views.slice_differences(bundle.comparison, bundle.promotion),
            promotion=bundle.promotion,
            gate_rows=views.gate_rows(bundle.promotion, document, bundle.comparison),
            fairness=fairness_views.fairness_view(bundle),
            cohorts=cohort_views.cohort_views(bundle.other_data, document),
            forest=_svg(cohort_views.forest_plot(bundle.other_data, document)),
            doubt=bundle.doubt,
            doubt_words=bundle.doubt
            and doubt_views.doubt_words(bundle.doubt, bundle.training.recipe, bundle.identities),
            doubt_parts=doubt_views.doubt_parts(bundle.doubt, bundle.other_data),
            broken=doubt_views.broken_promises(bundle.doubt, bundle.other_data),
            doubt_plot=_svg(doubt_views.doubt_plot(bundle.doubt)),
            examples=data_views.examples(bundle),
            training_charts=charts.training_charts(bundle.epochs, bundle.training.recipe),
            best_epoch=charts.best_epoch(bundle.epochs, bundle.training.recipe),
            funnel=data_views.funnel_rows(bundle.manifest.funnel),
            changes=data_views.change_tables(bundle.data_changes),
            data_tables=data_views.data_tables(bundle.data),
            checklist_sections=by_section(items),
            checklist_totals=totals(items),
        )
    )


def _performance(document: SubsetDocument) -> Performance:
    curves = document.curves
    return Performance(
        measure=views.leading_measure(document),
        headline=views.headline_figures(document),
        roc=_svg(charts.roc_plot(document)),
        precision_recall=_svg(charts.precision_recall_plot(document)),
        calibration=_svg(charts.calibration_plot(document)),
        net_benefit=_svg(charts.net_benefit_plot(document)),
        roc_keys=views.curve_keys(document, curves.roc, "auc"),
        precision_keys=views.curve_keys(document, curves.precision_recall, "average_precision"),
        tables={
            "roc": _tables(curves.roc),
            "precision_recall": _tables(curves.precision_recall),
            "calibration": curves.calibration and views.curve_table(curves.calibration),
            "net_benefit": curves.net_benefit and views.curve_table(curves.net_benefit),
        },
        confusion=views.confusion_rows(document),
        frequencies=views.natural_frequencies(document),
        classes=views.class_rows(document),
        slices=views.slice_groups(document),
        lowest_slice=views.lowest_slice(document),
        slice_columns=views.slice_columns(document),
        slice_scale=views.slice_scale(document),
    )


def _svg(plot: Plot | None) -> Markup | None:
    return None if plot is None else plot.svg()


def _tables(curves: Mapping[str, Published | None]) -> dict[str, dict[str, Any]]:
    return {name: views.curve_table(curve) for name, curve in curves.items() if curve}
