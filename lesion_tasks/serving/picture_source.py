"""A folder, a prefix of a bucket or a cohort -> its pictures, listed without reading them, and the bytes of each."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import OversizedError, RefusedUrlError
from lesion_tasks.archive.folder import place_below, read_regular
from lesion_tasks.archive.picture import MAX_FILE_BYTES, UnusablePictureError
from lesion_tasks.archive.picture_names import ALSO_READ, PictureNames, without_suffix
from lesion_tasks.bucket import AlteredObjectError, Bucket, MissingObjectError, S3Bucket, get_verified
from lesion_tasks.serving.serve import IS_MALE, Metadata
from lesion_tasks.workspace import Workspace

COHORT, BUCKET, S3 = "cohort:", "bucket:", "s3://"
ALTERED = "altered"  # the reason of a picture that changed; it may be gone when it is read again
SOURCE_IN_WORDS = f"a folder, {BUCKET}PREFIX, {S3}BUCKET/PREFIX or {COHORT}NAME"


@dataclass(frozen=True, kw_only=True)
class ListedPicture:
    """A picture of a source, by name."""

    image: str
    place: str  # where its bytes are: a path in the folder, or an object's key
    stamp: str  # changes with the bytes, as far as the source can tell without reading them
    metadata: Metadata = field(default_factory=dict)  # as the source itself knows it


class PictureSource(Protocol):
    """Where pictures come from."""

    address: str

    def pictures(self) -> Iterator[ListedPicture]:
        """Yield the pictures, sorted by name."""

    def read(self, place: str, stamp: str) -> bytes:
        """The bytes of a picture. Raises `UnusablePictureError` where they are gone, altered or too many."""


class FolderSource:
    """The pictures below a folder, by their paths in it; bytes that are no UTF-8 are escaped, and so is a backslash."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            found = "a file" if root.exists() else "nothing"
            raise UnusableInputError(f"{str(root)[:200]!r}: found {found}, expected {SOURCE_IN_WORDS}")
        self.root = root.resolve()
        self.address = str(self.root)
        if _in_utf8(self.address) != self.address.replace("\\", "\\\\"):
            raise UnusableInputError(f"{_in_utf8(self.address)!r}: expected a folder whose path is UTF-8")

    def pictures(self) -> Iterator[ListedPicture]:
        for path in PictureNames(self.root, also=ALSO_READ).paths:
            try:
                stamp = _stamp((self.root / path).stat())
            except OSError as error:  # a link to nowhere; reading says so
                stamp = f"{error.strerror}"
            yield ListedPicture(image=_in_utf8(path), place=quote(os.fsencode(path)), stamp=stamp)

    def read(self, place: str, stamp: str) -> bytes:
        try:
            path = place_below(self.root, f"file:{os.fsdecode(unquote_to_bytes(place))}")
            data, said = read_regular(path, max_bytes=MAX_FILE_BYTES)
        except OversizedError as error:
            raise UnusablePictureError("too_large", str(error)) from error
        except RefusedUrlError as error:
            raise UnusablePictureError("unreadable", "a link that leads out of the folder") from error
        except OSError as error:
            raise UnusablePictureError("unreadable", (error.strerror or str(error)).lower()) from error
        if _stamp(said) != stamp:
            raise UnusablePictureError(ALTERED, "the file was changed after it was listed")
        return data


def _in_utf8(name: str) -> str:
    """A file's name as text that can be stored; two names never become one."""
    return os.fsencode(name.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def _stamp(said: os.stat_result) -> str:
    return f"{said.st_size} {said.st_mtime_ns}"


class PrefixSource:
    """The objects whose keys begin with a prefix and end like a picture's name, by the rest of their keys.

    The rest begins after the last slash of the prefix, so that no two objects have one name.
    """

    def __init__(self, bucket: Bucket, prefix: str, address: str) -> None:
        if any(part.startswith(".") for part in prefix.split("/")) or prefix.startswith("/"):
            raise UnusableInputError(
                f"{address[:200]!r}: expected the beginning of keys, without . or .. in it"
            )
        self.bucket = bucket
        self.prefix = prefix
        self.address = address

    def pictures(self) -> Iterator[ListedPicture]:
        for key, n_bytes in self.bucket.list_sizes(self.prefix):
            if without_suffix(key, ALSO_READ) != key:
                yield ListedPicture(image=key[self.prefix.rfind("/") + 1 :], place=key, stamp=str(n_bytes))

    def read(self, place: str, stamp: str) -> bytes:
        if int(stamp) > MAX_FILE_BYTES:
            raise UnusablePictureError("too_large", f"{stamp} bytes, expected at most {MAX_FILE_BYTES}")
        try:
            data = self.bucket.get(place, at_most=int(stamp) + 1)
        except MissingObjectError as error:
            raise UnusablePictureError("unreadable", "no such object any more") from error
        except (ValueError, OSError) as error:
            found = (getattr(error, "strerror", None) or str(error)).lower()
            raise UnusablePictureError("unreadable", found) from error
        if len(data) != int(stamp):
            raise UnusablePictureError(ALTERED, f"no longer the {int(stamp):,} bytes that were listed")
        return data


class CohortSource:
    """The images of a cohort that can be judged, by id, with the metadata of its manifest."""

    def __init__(self, workspace: Workspace, name: str, task: str) -> None:
        from lesion_tasks.catalog.lookup import find_cohort

        find_cohort(name, task)
        self.workspace = workspace
        self.name = name
        self.task = task
        self.address = f"{COHORT}{name}"

    @cached_property
    def manifest_digest(self) -> str:
        from lesion_tasks.splits.cohort_manifest import build_cohort

        return build_cohort(self.workspace, self.name, self.task)

    def pictures(self) -> Iterator[ListedPicture]:
        from lesion_tasks.splits.manifest import find_manifest, read_table

        with self.workspace.engine.connect() as connection:
            key = find_manifest(connection, self.manifest_digest).object_key
        columns = ["isic_id", "object_key", "sha256", "age_years", "sex", "size_mm"]
        for batch in read_table(self.workspace.bucket, key).select(columns).to_batches():
            for row in batch.to_pylist():
                yield ListedPicture(
                    image=row["isic_id"],
                    place=row["object_key"],
                    stamp=row["sha256"],
                    metadata=stored_metadata(row),
                )

    @cache  # noqa: B019 - a source is gone when its job is planned
    def not_judged(self, training_id: str) -> tuple[dict[str, str], str]:
        """As `other_data.not_judged_on` has it, of the images of the manifest."""
        from lesion_tasks.evaluation.other_data import not_judged_on

        return not_judged_on(self.workspace, training_id, self.manifest_digest)

    def read(self, place: str, stamp: str) -> bytes:
        return stored_picture(self.workspace.bucket, place, stamp)


def notes_about(source: PictureSource, training_id: str) -> list[str]:
    """What a reader of a model's answers should know of a source: of a cohort, which images are no test of it."""
    if not isinstance(source, CohortSource):
        return []
    command = f"lesion evaluate {training_id} --cohort {source.name}"
    try:
        left_out, words = source.not_judged(training_id)
    except UnusableInputError as error:
        return [f"Which of these images an evaluation ({command}) would leave out is unknown: {error}."]
    if not left_out:
        return [f"An evaluation ({command}) judges the model on all of these images."]
    return [
        f"An evaluation ({command}) leaves out {len(left_out):,} of these images, which are predicted all the same: "
        f"{words}."
    ]


def left_out_of(source: PictureSource, training_id: str) -> dict[str, str] | None:
    """Of a cohort, the images that are no test of a model, each with why; None of other sources, and if unknown."""
    if isinstance(source, CohortSource):
        with suppress(UnusableInputError):
            return source.not_judged(training_id)[0]
    return None


def stored_picture(bucket: Bucket, key: str, sha256: str) -> bytes:
    """A picture of the archive, held against its digest. Raises `UnusablePictureError` where it is gone or altered."""
    try:
        return get_verified(bucket, key, sha256, kind="picture")
    except (AlteredObjectError, MissingObjectError) as error:
        raise UnusablePictureError(ALTERED, str(error)) from error


def stored_metadata(row: Mapping[Any, Any]) -> Metadata:
    """What a model may ask for, of an image with age_years, sex and size_mm; None and NaN are missing."""
    known = {name: row[name] for name in ("age_years", "size_mm") if row[name] is not None}
    if row["sex"] in IS_MALE:
        known["is_male"] = IS_MALE[row["sex"]]
    return {name: value for name, value in known.items() if value == value}


def is_source(text: str) -> bool:
    """Whether an argument names many pictures and not one file."""
    if text.startswith((COHORT, BUCKET, S3)):
        return True
    with suppress(OSError, ValueError):  # a name that no file can have
        return Path(text).is_dir()
    return False


def check_address(address: str) -> None:
    """Raise `UnusableInputError` for a cohort that nobody declares: its name is wrong whatever the model is."""
    from lesion_tasks.catalog.lookup import find_cohort

    if address.startswith(COHORT):
        find_cohort(address.removeprefix(COHORT))


def open_source(
    workspace: Workspace, address: str, task: str, *, is_from_form: bool = False
) -> PictureSource:
    """The source that an address names. Raises `UnusableInputError` for one that is none.

    From a form: only folders under LESION_SOURCE_FOLDERS, and no other bucket than the project's own.
    """
    if address.startswith(COHORT):
        return CohortSource(workspace, address.removeprefix(COHORT), task)
    if address.startswith(BUCKET):
        return PrefixSource(workspace.bucket, address.removeprefix(BUCKET), address)
    if address.startswith(S3):
        if is_from_form:
            expected = f"{BUCKET}PREFIX, {COHORT}NAME or a folder"
            raise UnusableInputError(f"{address[:200]!r}: from a form, expected {expected}")
        name, _, prefix = address.removeprefix(S3).partition("/")
        return PrefixSource(S3Bucket(f"{S3}{name}", cache=workspace.settings.cache), prefix, address)
    check_named(workspace, Path(address), is_from_form=is_from_form)
    return FolderSource(Path(address))


def check_named(workspace: Workspace, place: Path, *, is_from_form: bool) -> None:
    """Refuse a folder or file that a form must not name, without revealing what is there."""
    if is_from_form and not workspace.settings.may_be_named_in_form(place):
        raise UnusableInputError(
            f"{str(place)[:200]!a}: from a form, expected a place under one of LESION_SOURCE_FOLDERS"
        )
