"""The document of a recipe tested where it never learned -> the files of its report: a page and JSON."""

from __future__ import annotations

import json

from lesion_tasks.catalog.titles import label
from lesion_tasks.metrics.document_schema import DIALECT, PublishedFigure
from lesion_tasks.metrics.held_out_document import HeldOutDocument
from lesion_tasks.reports.cohort_views import forest
from lesion_tasks.reports.environment import environment
from lesion_tasks.reports.page import File
from lesion_tasks.reports.plot import Plot
from lesion_tasks.reports.views import in_order


def render_held_out(document: HeldOutDocument) -> dict[str, File]:
    """File name -> (bytes, content type), in the order in which they are stored: by the last one a report is found."""
    schema = {"$schema": DIALECT, **HeldOutDocument.model_json_schema(mode="serialization")}
    return {
        "metrics.schema.json": (_json(schema), "application/schema+json"),
        "report.html": (render_page(document).encode(), "text/html; charset=utf-8"),
        "metrics.json": (_json(document.model_dump()), "application/json"),
    }


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False).encode()


def render_page(document: HeldOutDocument) -> str:
    """Render only the page."""
    plot = _forest(document)
    trainings = [training for site in document.sites for training in site.trainings]
    columns = in_order({name for one in trainings for name in one.figures} - {document.measure})
    page: str = (
        environment()
        .get_template("held_out.html.j2")
        .render(
            document=document,
            forest=plot and plot.svg(),
            columns=columns,
            n_trainings=len(trainings),
            has_several=len(trainings) > len(document.sites),
            path_of={
                one.training_id: f"../../{one.report_key.removeprefix('reports/')}" for one in trainings
            },
        )
    )
    return page


def _forest(document: HeldOutDocument) -> Plot | None:
    """The mean and where a new site may fall, then each site; None without a figure."""
    known = [
        (site.value, site.figure)
        for site in document.sites
        if site.figure is not None and site.figure.value is not None
    ]
    if not known:
        return None
    together = document.together
    if together is None:
        return forest(known, document.measure, _title(document), reference=0.5, n_first=0)
    n_images = sum(figure.n_images for _, figure in known)
    rows = [
        (name, _figure(together.mean, low, high, n_images))
        for name, low, high in (
            (f"Mean of {together.n_sites}", together.mean_low, together.mean_high),
            (f"A new {document.one}", together.new_site_low, together.new_site_high),
        )
    ]
    return forest(
        [*rows, *known], document.measure, _title(document), reference=together.mean, n_first=len(rows)
    )


def _title(document: HeldOutDocument) -> str:
    return f"{label(document.measure)} by held-out {document.one}"


def _figure(value: float, low: float, high: float, n_images: int) -> PublishedFigure:
    counts = {"n_images": n_images, "n_groups": 0, "n_positives": None}
    return PublishedFigure.model_validate({"value": value, "low": low, "high": high, "method": None} | counts)
