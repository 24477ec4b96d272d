"""The rows of a manifest -> of how many images of each subset patient and lesion are known."""

from typing import TYPE_CHECKING

from lesion_tasks.metrics.known_identities import KnownIdentities
from lesion_tasks.splits.subset_or_quarantine import SUBSETS

if TYPE_CHECKING:
    import pyarrow as pa


def known_by_subset(table: "pa.Table") -> dict[str, KnownIdentities]:
    """Of how many images of each subset patient and lesion are known."""
    import pyarrow.compute as pc

    found = {}
    for subset in SUBSETS:
        part = table.select(["patient_id", "lesion_id"]).filter(pc.equal(table["subset"], subset))
        either = pc.coalesce(part["patient_id"], part["lesion_id"])
        found[subset] = KnownIdentities(
            n_images=len(part),
            n_with_patient=len(part) - part["patient_id"].null_count,
            n_with_lesion=len(part) - part["lesion_id"].null_count,
            n_with_either=len(part) - either.null_count,
        )
    return found
