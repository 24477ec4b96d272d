"""The facts about a manifest's data -> `reports/data/<digest>.html` in the bucket."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.picture import UnusablePictureError, open_picture
from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog import IMPUTATIONS
from lesion_tasks.catalog.approvals import LABEL_DECISIONS, PAIR_DECISIONS
from lesion_tasks.catalog.lookup import find_split, find_task
from lesion_tasks.catalog.synthetic_pictures import is_synthetic
from lesion_tasks.catalog.titles import split_title
from lesion_tasks.curation.corrections import corrections_at
from lesion_tasks.database.pruned import MANIFEST_IS_PRUNED
from lesion_tasks.metrics.known_identities import note_of
from lesion_tasks.splits import data_facts as facts
from lesion_tasks.splits.exclusions import REASONS
from lesion_tasks.splits.institution_names import find_alike, institutions_in
from lesion_tasks.splits.known_by_subset import known_by_subset
from lesion_tasks.splits.manifest import read_table

if TYPE_CHECKING:
    import pyarrow as pa

N_COPIES_SHOWN = 24
THUMBNAIL_SIDE_PX = 144


@dataclass(frozen=True, kw_only=True)
class DataPage:
    """What the page of a manifest shows, by the names that its template has."""

    manifest: dict[str, Any]
    task: dict[str, Any]
    rule: str
    imputation: str
    is_leaking: bool
    has_synthetic: bool
    funnel: list[dict[str, Any]]
    n_left_out: int
    classes: list[dict[str, Any]]
    shares: list[dict[str, Any]]
    missing: list[dict[str, Any]]
    imputed: list[dict[str, Any]]
    values: list[dict[str, Any]]
    alike: list[tuple[str, str]]  # names of institutions that may be one
    groups: list[dict[str, Any]]
    identities: str | None
    quarantine: dict[str, int]
    corrections: list[dict[str, Any]]
    duplicates: facts.Duplicates
    changes: dict[str, Any] | None  # since the manifest before; None: there is none


def page_key(digest: str) -> str:
    """The key of a manifest's page in the bucket."""
    return f"reports/data/{digest}.html"


def write_data_report(
    bucket: Bucket, connection: Connection, digest: str, at_hand: "Mapping[str, pa.Table] | None" = None
) -> str:
    """Write the page of a manifest, unless it is there; returns its key. `at_hand`: rows of manifests by digest."""
    key = page_key(digest)
    if not bucket.exists(key):
        page = render_data_page(collect_facts(bucket, connection, digest, at_hand))
        bucket.put(key, page.encode(), content_type="text/html; charset=utf-8")
    return key


def collect_facts(
    bucket: Bucket, connection: Connection, digest: str, at_hand: "Mapping[str, pa.Table] | None" = None
) -> DataPage:
    """Everything the page shows. Raises `UnusableInputError` for a digest that no manifest has."""
    manifest = connection.execute(
        text("SELECT * FROM manifest WHERE digest = :digest"), {"digest": digest}
    ).one_or_none()
    if manifest is None:
        raise UnusableInputError(f"manifest {digest!r} is not in the database, expected a digest of one")
    split, task = find_split(manifest.recipe["split"]["name"]), find_task(manifest.task)
    tables = dict(at_hand or {})
    table = tables.get(digest)
    if table is None:
        table = tables[digest] = read_table(bucket, manifest.object_key)
    duplicates = facts.duplicate_facts(connection, table, split.name, N_COPIES_SHOWN)
    duplicates = replace(
        duplicates,
        copies=[_with_pictures(bucket, pair) for pair in duplicates.copies],
        look_alikes=[_with_pictures(bucket, pair) for pair in duplicates.look_alikes],
    )
    return DataPage(
        manifest={
            "digest": digest,
            "split": split.name,
            "title": split_title(split.name)
            + (f", without {manifest.held_out}" if manifest.held_out else ""),
            "n_images": manifest.n_images,
            "created_at": manifest.created_at.isoformat(timespec="seconds"),
            "recipe": manifest.recipe,
        },
        task={
            "name": task.name,
            "title": task.title,
            "classes": list(task.classes),
            "positive": task.positive,
        },
        rule=_rule_in_words(split.max_per_class),
        imputation=IMPUTATIONS[split.imputation],
        is_leaking=split.is_leaking,
        has_synthetic=any(is_synthetic(name or "") for name in table["attribution"].unique().to_pylist()),
        funnel=_funnel(manifest.funnel),
        n_left_out=-sum(step["n"] for step in manifest.funnel if step["n"] < 0),
        classes=facts.class_rows(manifest.class_counts, task),
        # What is held out is the whole test set: no share of it was asked for.
        shares=[] if manifest.held_out else facts.share_rows(table, split, task),
        missing=facts.missing_rows(table),
        imputed=facts.imputation_rows(table),
        values=facts.value_tables(table, task),
        alike=find_alike(institutions_in(table)),
        groups=facts.group_rows(table),
        identities=note_of(known_by_subset(table)),
        quarantine=facts.quarantine_counts(connection, split.name, task.assignment),
        corrections=[
            {
                "images": [name for name in (one.isic_id, one.other_isic_id) if name],
                "decision": one.decision,
                "effect": {**LABEL_DECISIONS, **PAIR_DECISIONS}[one.decision],
                "reason": one.reason,
                "decided_by": one.decided_by,
                "decided_at": one.decided_at.isoformat(timespec="seconds"),
            }
            for one in corrections_at(connection, manifest.built_at)
            if one.task in (None, task.name)
        ],
        duplicates=duplicates,
        changes=_changes(bucket, connection, manifest, tables),
    )


def _with_pictures(bucket: Bucket, pair: facts.ShownPair) -> facts.ShownPair:
    return replace(
        pair,
        picture=thumbnail(bucket, pair.sha256, pair.object_key),
        other_picture=thumbnail(bucket, pair.other_sha256, pair.other_object_key),
    )


def _rule_in_words(max_per_class: int | None) -> str:
    if max_per_class is None:
        return "Train holds every image that falls into it, with the natural share of classes."
    return f"Train holds as many images of each class as the rarest has, at most {max_per_class:,}, by lowest hash."


def _funnel(steps: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    whole = max((abs(step["n"]) for step in steps), default=0)
    return [
        {
            **step,
            "reason": step.get("reason"),
            "explanation": REASONS.get(step.get("reason") or "", ""),
            "share": abs(step["n"]) / whole if whole else 0.0,
        }
        for step in steps
    ]


def _changes(
    bucket: Bucket, connection: Connection, manifest: Any, tables: "Mapping[str, pa.Table]"
) -> dict[str, Any] | None:
    """The changes since the manifest of the same split that was in force before this one was first made."""
    previous = connection.execute(
        text(f"""
            SELECT digest, object_key, created_at FROM manifest m
            WHERE split = :split AND digest <> :digest AND created_at < :at AND NOT {MANIFEST_IS_PRUNED}
            ORDER BY built_at DESC LIMIT 1
        """),  # noqa: S608 - our own words
        {"split": manifest.split, "digest": manifest.digest, "at": manifest.created_at},
    ).one_or_none()
    if previous is None:
        return None
    before = tables.get(previous.digest)
    if before is None:
        before = read_table(bucket, previous.object_key)
    changes = facts.changes_since(before, tables[manifest.digest])
    return {
        **changes,
        "digest": previous.digest,
        "created_at": previous.created_at.isoformat(timespec="seconds"),
    }


def thumbnail(bucket: Bucket, sha256: str, key: str) -> str | None:
    """A picture as a small JPEG that the page carries in itself; None where the bucket does not hold it as it was."""
    try:
        small = open_picture(get_verified(bucket, key, sha256, kind="picture"), least_px=THUMBNAIL_SIDE_PX)
    except (AlteredObjectError, MissingObjectError, UnusablePictureError):
        return None
    small.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render_data_page(shown: DataPage) -> str:
    """Render the page as HTML."""
    from lesion_tasks.reports.environment import environment

    page: str = environment().get_template("data_page.html.j2").render(**vars(shown))
    return page
