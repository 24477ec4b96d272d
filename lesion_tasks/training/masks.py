"""A folder of lesion masks -> `masks/` in the bucket, by image id, for training a segmentation network.

Masks are optional. The index is written last, and names only complete masks; running this again with another folder
adds to it.
"""

import hashlib
import json
import re
from pathlib import Path

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.image_ids import is_image_id
from lesion_tasks.archive.picture import Picture, read_picture
from lesion_tasks.bucket import Bucket, MissingObjectError, reading_object
from lesion_tasks.metrics.counted import plural
from lesion_tasks.progress import progress
from lesion_tasks.workspace import Workspace

INDEX_KEY = "masks/index.json"
_FILE = re.compile(r"(.+?)(?:_segmentation)?\.(?:png|jpg|jpeg)", re.IGNORECASE)


def import_masks(workspace: Workspace, folder: str) -> dict[str, int]:
    """Copy masks named `<isic_id>_segmentation.png` or `<isic_id>.png` into the bucket; returns counts.

    A mask is any picture: pixels brighter than half are lesion. A mask that cannot be decoded is left out and counted.
    """
    path = Path(folder)
    files = sorted(path.iterdir()) if path.is_dir() else []
    named = {
        isic_id: file
        for file in files
        if (match := _FILE.fullmatch(file.name)) and is_image_id(isic_id := _as_image_id(match[1]))
    }
    if not named:
        found = plural(len(files), "other file") if path.is_dir() else "no such folder"
        raise UnusableInputError(
            f"masks {folder}: found {found}, expected files like ISIC_0000000_segmentation.png"
        )
    bucket = workspace.bucket
    index = read_index(bucket)
    n_unreadable = 0
    with progress("masks", len(named)) as advance:
        for isic_id, file in named.items():
            data = file.read_bytes()
            if isinstance(read_picture(data), Picture):
                bucket.put(f"masks/{isic_id}", data)
                index[isic_id] = hashlib.sha256(data).hexdigest()
            else:
                n_unreadable += 1
            advance(1)
    bucket.put(INDEX_KEY, json.dumps(index, sort_keys=True).encode(), content_type="application/json")
    return {"masks": len(named) - n_unreadable, "unreadable": n_unreadable, "in_bucket": len(index)}


def _as_image_id(stem: str) -> str:
    """The archive's ids are read in either case."""
    return stem.upper() if stem.upper().startswith("ISIC_") else stem


def read_index(bucket: Bucket) -> dict[str, str]:
    """SHA-256 of each mask in the bucket by image id; empty if there are none."""
    try:
        with reading_object(bucket, INDEX_KEY):
            found: dict[str, str] = json.loads(bucket.get(INDEX_KEY))
    except MissingObjectError:
        return {}
    return found
