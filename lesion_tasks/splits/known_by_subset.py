"""The rows of a manifest -> for how many images of each subset patient and lesion are known."""

from typing import TYPE_CHECKING

from lesion_tasks.metrics.known_identities import KnownIdentities, count_known
from lesion_tasks.splits.subset_or_quarantine import SUBSETS

if TYPE_CHECKING:
    import pyarrow as pa


def known_by_subset(table: "pa.Table") -> dict[str, KnownIdentities]:
    """For how many images of each subset patient and lesion are known."""
    rows = table.select(["subset", "patient_id", "lesion_id"]).to_pandas()
    return {subset: count_known(rows[rows["subset"] == subset]) for subset in SUBSETS}
