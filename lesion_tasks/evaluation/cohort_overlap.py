"""Rows of a cohort and of a training's own manifest -> which of them show somebody or something that it already has.

What is taken out covers the training's test set too: its figures and those of the cohort are then of different people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from lesion_tasks.curation.copies import picture_numbers
from lesion_tasks.curation.ties import Ties
from lesion_tasks.metrics.cohort_document import Overlap
from lesion_tasks.splits.subset_or_quarantine import SUBSETS

if TYPE_CHECKING:
    import pandas as pd

# What two rows may share, by column, closest first: an image counts under the first that it shares.
KINDS = {
    "isic_id": "image",
    "sha256": "bytes",
    "picture": "picture",
    "lesion_id": "lesion",
    "patient_id": "patient",
    "group_id": "group",
}
_LEARNED = ("lesion_id", "patient_id", "group_id")  # which an archive may tell after a manifest was built


@dataclass(frozen=True, kw_only=True)
class Shared:
    """An image of a cohort, what it shares with a training's own data, in which subset, and with which image there."""

    isic_id: str
    kind: str
    subset: str
    other_id: str


def find_overlaps(connection: Connection, cohort: "pd.DataFrame", own: "pd.DataFrame") -> list[Shared]:
    """Every image of a cohort that the rows of `own` share anything with, once, in the order of the cohort.

    Identities count as the manifests have them and as the database knows them by now.
    """
    import pandas as pd

    together = pd.concat([cohort, own], keys=["cohort", "own"], names=["side"])
    pictures = picture_numbers(connection, together["sha256"].tolist())
    today = _identities_today(connection, together["isic_id"].unique().tolist())
    side = together.index.get_level_values("side")
    found: dict[str, Shared] = {}
    for column, kind in KINDS.items():
        values = [pictures] if column == "picture" else [together[column].to_numpy(dtype=object)]
        if column in _LEARNED:
            values.append(together["isic_id"].map(today[column]).to_numpy(dtype=object))
        for subset in SUBSETS:
            is_theirs = (side == "own") & (together["subset"] == subset).to_numpy()
            theirs = together["isic_id"].to_numpy()[is_theirs]
            known: dict[object, str] = {}
            for some in values:
                by_value = pd.Series(theirs, index=pd.Index(some[is_theirs]))
                first = by_value[by_value.index.notna() & ~by_value.index.duplicated()]
                known = first.to_dict() | known
            for some in values:
                ours = some[side == "cohort"]
                for i in pd.Series(ours).isin(known.keys()).to_numpy().nonzero()[0]:
                    isic_id = cohort["isic_id"].iloc[i]
                    shared = Shared(isic_id=isic_id, kind=kind, subset=subset, other_id=known[ours[i]])
                    found.setdefault(isic_id, shared)
    _name_the_tie(connection, found, dict(zip(own["isic_id"], own["subset"], strict=True)))
    return [found[isic_id] for isic_id in cohort["isic_id"] if isic_id in found]


def _name_the_tie(
    connection: Connection, found: dict[str, Shared], subset_by_image: Mapping[str, str]
) -> None:
    """Of images that share a group alone, name the image of a training's own data to which the shortest way leads."""
    linked = [isic_id for isic_id, one in found.items() if one.kind == "group"]
    if not linked:
        return
    groups = connection.execute(
        text("SELECT DISTINCT group_id FROM image WHERE isic_id = ANY(:ids)"), {"ids": linked}
    )
    ties = Ties(connection, set(groups.scalars()))
    for isic_id in linked:
        if way := ties.way(isic_id, subset_by_image.keys()):
            end = way[-1].isic_id
            found[isic_id] = replace(found[isic_id], subset=subset_by_image[end], other_id=end)


def counted(found: Sequence[Shared]) -> list[Overlap]:
    """The number of images by kind and subset, closest kind first."""
    return [
        Overlap(kind=kind, subset=subset, n_images=n)
        for kind in KINDS.values()
        for subset in SUBSETS
        if (n := sum(one.kind == kind and one.subset == subset for one in found))
    ]


def _identities_today(connection: Connection, isic_ids: list[str]) -> Mapping[str, Mapping[str, str | None]]:
    """Column -> image id -> who the database says it is by now."""
    rows = connection.execute(
        text("SELECT isic_id, group_id, patient_id, lesion_id FROM image WHERE isic_id = ANY(:ids)"),
        {"ids": isic_ids},
    ).all()
    return {column: {row.isic_id: getattr(row, column) for row in rows} for column in _LEARNED}
