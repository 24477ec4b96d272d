"""Thousands of pictures and a training -> `predictions/<job>/` in the bucket: a table as Parquet and CSV; and a page.

    plan      the source is listed, joined with its metadata, and written down under a digest that names the job
    predict   the rows of the list, part by part; a part is an object, so a killed run goes on with the next one
    finish    the parts -> predictions.parquet, predictions.csv, `reports/predictions/<job>.html`, and result.json last

The digest is over the source, what it lists, the metadata and the model: the same job again finds what it has done, and
the rows are the same wherever it was interrupted. Needs no database, unless a cohort or a training is named.
"""

import hashlib
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.picture import UnusablePictureError, decoder_versions, open_picture, refusing_damage
from lesion_tasks.archive.picture_names import ALSO_READ, PictureNames
from lesion_tasks.bucket import (
    AlteredObjectError,
    Bucket,
    MissingObjectError,
    digest_of_file,
    get_verified,
    reading_object,
    verified_path,
)
from lesion_tasks.catalog.canonical_json import canonical_json
from lesion_tasks.catalog.recipe import METADATA
from lesion_tasks.metrics.counted import plural
from lesion_tasks.progress import progress
from lesion_tasks.scratch import scratch_file
from lesion_tasks.serving.picture_prediction import PROBABILITY_PREFIX, table_schema
from lesion_tasks.serving.picture_source import (
    ALTERED,
    ListedPicture,
    PictureSource,
    check_address,
    check_named,
    left_out_of,
    notes_about,
    open_source,
)
from lesion_tasks.serving.picture_table import PictureTable
from lesion_tasks.serving.predict_pictures import BATCH_IMAGES, PictureToPredict, predict_pictures
from lesion_tasks.serving.serve import Metadata, checked_metadata
from lesion_tasks.serving.served_model import (
    ModelFile,
    find_model,
    load_served,
    notes_about_model,
    read_model_file,
)
from lesion_tasks.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from lesion_tasks.reports.prediction_page import PredictionSummary

log = logging.getLogger(__name__)

PART_IMAGES = 16 * BATCH_IMAGES  # whole batches, so that every part is scored alike, whichever run scores it
JOB_VERSION = 4  # raise it when the same pictures and model give other rows
_PASSING = {"unreadable", ALTERED}  # reasons that may be gone when the same job is asked for again
LEFT_OUT = "left_out"  # a column of cohorts alone: why an evaluation of the model would leave an image out
N_HEAD_ROWS = 20
N_EXAMPLES = 5
N_COLUMNS = 20
TABLES = {
    "predictions.parquet": "application/vnd.apache.parquet",
    "predictions.csv": "text/csv; charset=utf-8",
}
PAGE = "report.html"
FOLDER = "predictions"
PAGES_OF_JOBS = f"reports/{FOLDER}/"  # the beginning of the keys of finished jobs' pages
_JOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*-[0-9a-f]{12}")
_PART = re.compile(r"(\d{6})-([0-9a-f]{64})\.parquet")


class PredictionJob(BaseModel):
    """What is predicted by which model: everything that decides the rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    asked_at: datetime | None = None  # when it was last planned; decides no row
    versions: tuple[str, ...] = ()  # of what else decides the rows; none before that was written down
    listed_sha256: str = ""  # over what the source lists and its metadata
    source: str  # its address
    task: str
    training_id: str
    model_key: str
    model_sha256: str
    doubt_key: str | None = None
    doubt_sha256: str | None = None
    n_images: int
    pictures_sha256: str  # of the object `pictures.parquet`
    notes: tuple[str, ...]  # about the source and its table, for the page

    @property
    def folder(self) -> str:
        """Where it lies in the bucket."""
        return folder_of(self.job_id)

    @property
    def model_file(self) -> ModelFile:
        return ModelFile(
            training_id=self.training_id,
            model_key=self.model_key,
            model_sha256=self.model_sha256,
            doubt_key=self.doubt_key,
            doubt_sha256=self.doubt_sha256,
        )


class PredictionResult(BaseModel):
    """What a finished job made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    model: str
    n_images: int
    n_predicted: int
    n_by_prediction: dict[str, int]
    n_refused: dict[str, int]  # by reason
    notes: tuple[str, ...] = ()  # what a reader should know; none before that was written down
    sha256_by_file: dict[str, str]


def folder_of(job_id: str) -> str:
    """The folder of a job in the bucket. Raises `UnusableInputError` for what cannot be a job's id."""
    if not is_job(job_id):
        raise UnusableInputError(f"job {job_id[:200]!r}: expected the id of a prediction job")
    return f"{FOLDER}/{job_id}"


def key_of(job_id: str, name: str) -> str:
    """The key of a file of a finished job; its page lies among the reports, where Airflow's pages look."""
    return f"{PAGES_OF_JOBS}{job_id}.html" if name == PAGE else f"{folder_of(job_id)}/{name}"


def is_job(name: str) -> bool:
    """Whether a name can be a job's id."""
    return _JOB.fullmatch(name) is not None


def list_jobs(bucket: Bucket) -> list[str]:
    """The ids of all jobs of which anything is in the bucket, sorted."""
    return sorted({name for key in bucket.list_keys(f"{FOLDER}/") if is_job(name := key.split("/")[1])})


def when_asked(bucket: Bucket, job_id: str) -> datetime | None:
    """When a job was last planned; None if its plan does not say so, as of another release.

    Raises `MissingObjectError` if there is no plan.
    """
    try:
        return PredictionJob.model_validate_json(bucket.get(f"{folder_of(job_id)}/job.json")).asked_at
    except ValueError:
        return None


def predict_source(
    workspace: Workspace,
    address: str,
    *,
    task: str = "malignancy",
    training_id: str | None = None,
    table: Path | None = None,
    metadata: Metadata | None = None,
    out: Path | None = None,
) -> PredictionResult:
    """Plan, predict and finish in one go, and copy the tables and the page to the folder `out`."""
    job_id = plan_predictions(
        workspace, address, task=task, training_id=training_id, table=table, metadata=metadata
    )
    run_predictions(workspace, job_id)
    result = finish_predictions(workspace, job_id)
    if out is not None:
        copy_to_folder(workspace.bucket, result, out)
    return result


def plan_predictions(
    workspace: Workspace,
    address: str,
    *,
    task: str = "malignancy",
    training_id: str | None = None,
    table: Path | None = None,
    metadata: Metadata | None = None,
    is_from_form: bool = False,
) -> str:
    """List the pictures of a source with their metadata, and write the job down; returns its id.

    `training_id`: by default the champion of the task. `metadata` applies to every picture, or `table` (CSV) has a row
    for each; what neither says, a source may know itself. The model's file and the first picture are read, nothing
    heavy is loaded. Raises `UnusableInputError`.
    """
    if table is not None and metadata:
        raise UnusableInputError(
            f"table {table} and {', '.join(metadata)} for all pictures: expected one of them"
        )
    check_address(address)
    file = find_model(workspace, task, training_id)
    _, manifest = read_model_file(workspace.bucket, file)
    task = manifest.get("task", {}).get("name", task)  # of a named training, its own
    source = open_source(workspace, address, task, is_from_form=is_from_form)
    if table is not None:
        check_named(workspace, table, is_from_form=is_from_form)
    with scratch_file("pictures.parquet") as path:
        n_images, digest, notes, n_with = _write_list(
            path, source, table, checked_metadata(metadata or {}), manifest["variant"]["metadata"],
            left_out_of(source, file.training_id),
        )  # fmt: skip
        about = notes_about_model(workspace.bucket, file, manifest, n_images, n_with)
        about += notes_about(source, file.training_id)
        for note in (*notes, *about):
            log.info("%s", note)
        versions = _versions()
        job_id = _id_of(source.address, file, digest, versions)
        job = PredictionJob(
            job_id=job_id,
            asked_at=datetime.now(UTC),
            versions=versions,
            listed_sha256=digest,
            task=task,
            n_images=n_images,
            pictures_sha256=digest_of_file(path),
            source=source.address,
            notes=(*notes, *about),
            **{name: value for name, value in vars(file).items() if name != "unsound"},
        )
        workspace.bucket.put_file(f"{job.folder}/pictures.parquet", path)
    earlier = _finished(workspace.bucket, job)
    if earlier is not None and _PASSING & set(earlier.n_refused):
        log.info("job %s: some of its pictures could not be read: it is made again", job_id)
        workspace.bucket.delete(f"{job.folder}/result.json")
    workspace.bucket.put(
        f"{job.folder}/job.json", job.model_dump_json(indent=2).encode(), content_type="application/json"
    )
    log.info("job %s: %s pictures of %s", job_id, f"{n_images:,}", legible(source.address))
    return job_id


def _versions() -> tuple[str, ...]:
    """What else decides the rows: the rules of this release, and what decodes pictures."""
    return f"job {JOB_VERSION}", *decoder_versions()


def _id_of(address: str, file: ModelFile, listed_sha256: str, versions: Sequence[str]) -> str:
    said = {
        "source": address,
        "model": file.model_sha256,
        "doubt": file.doubt_sha256,
        "pictures": listed_sha256,
        "versions": versions,
    }
    return f"{file.training_id}-{hashlib.sha256(canonical_json(said)).hexdigest()[:12]}"


def _write_list(
    path: Path,
    source: PictureSource,
    table: Path | None,
    metadata: Metadata,
    asked_for: Sequence[str],
    left_out: Mapping[str, str] | None = None,
) -> tuple[int, str, list[str], dict[str, int]]:
    """The number of pictures, a digest over the list, what there is to say about it, and of how many each is told."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    listed = source.pictures()
    given: PictureTable | None = None
    if table is not None:
        kept = list(listed)
        given = PictureTable(table, PictureNames(Path(), (one.image for one in kept), also=ALSO_READ))
        listed = iter(kept)
    first = next(listed, None)
    if first is None:
        raise UnusableInputError(f"{source.address}: found no picture, expected at least one")
    _look_at(source, first)
    texts = [(name, pa.string()) for name in ("image", "place", "stamp")]
    if left_out is not None:
        texts.append((LEFT_OUT, pa.string()))
    schema = pa.schema([*texts, *((name, pa.float64()) for name in METADATA)])
    digest, n_images, n_known = hashlib.sha256(), 0, 0
    n_with = dict.fromkeys(asked_for, 0)  # pictures of which the model is told this
    pictures = _each_once(source, _chained(first, listed))
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(pictures, PART_IMAGES)):
            rows = []
            for one in chunk:
                known = {**one.metadata, **metadata}
                if given is not None:
                    known |= given.metadata_by_image.get(one.image, {})
                    n_known += one.image in given.metadata_by_image
                rows.append(
                    {"image": one.image, "place": one.place, "stamp": one.stamp}
                    | {name: known.get(name) for name in METADATA}
                    | ({} if left_out is None else {LEFT_OUT: left_out.get(one.image)})
                )
                digest.update(canonical_json(rows[-1]) + b"\n")
                for name in asked_for:
                    n_with[name] += rows[-1][name] is not None
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=PART_IMAGES)
            n_images += len(rows)
    notes = [] if given is None else _notes(given, n_images, n_known)
    if not asked_for and (given is not None or metadata):
        notes.append("The model asks for no metadata: what is given of the pictures changes nothing.")
    return n_images, digest.hexdigest(), notes, n_with


def _chained(first: ListedPicture, rest: Iterator[ListedPicture]) -> Iterator[ListedPicture]:
    yield first
    yield from rest


def _each_once(source: PictureSource, pictures: Iterator[ListedPicture]) -> Iterator[ListedPicture]:
    """The pictures, which come sorted by name, or `UnusableInputError` for a name that two have."""
    last: ListedPicture | None = None
    for one in pictures:
        if last is not None and one.image == last.image:
            raise UnusableInputError(
                f"{source.address}: {legible(last.place)} and {legible(one.place)} are both named "
                f"{legible(one.image)}, expected one"
            )
        last = one
        yield one


def _look_at(source: PictureSource, first: ListedPicture) -> None:
    """Decode the first picture: a source that cannot be read at all is better known before a model is loaded."""
    try:
        with refusing_damage():
            open_picture(source.read(first.place, first.stamp))
    except UnusablePictureError as error:
        log.warning("the first picture, %s, cannot be read: %s", legible(first.image), error)


def _notes(table: PictureTable, n_images: int, n_known: int) -> list[str]:
    rest = "; to the others, all metadata is missing" if n_known < n_images else ""
    notes = [f"The table has a row for {n_known:,} of {plural(n_images, 'picture')}{rest}."]
    if table.n_strangers:
        shown = ", ".join(table.strangers)
        notes.append(f"{table.n_strangers:,} of its rows name no picture of the source, such as {shown}.")
    if table.unread:
        notes.append(f"Its columns that are not read: {', '.join(table.unread[:N_COLUMNS])}.")
    return notes


def find_job(bucket: Bucket, job_id: str) -> PredictionJob:
    """A job that was planned. Raises `UnusableInputError` for an id that no job has."""
    key = f"{folder_of(job_id)}/job.json"
    with reading_object(bucket, key):
        try:
            job = PredictionJob.model_validate_json(bucket.get(key))
        except MissingObjectError:
            raise UnusableInputError(
                f"job {job_id!r}: no such job in {bucket.url}, expected a planned one"
            ) from None
    if job_id != _id_of(job.source, job.model_file, job.listed_sha256, job.versions):
        raise UnusableInputError(
            f"job {job_id}: {key} was changed or is of an earlier release, expected it as it was planned: plan it again"
        )
    return job


def run_predictions(workspace: Workspace, job_id: str, *, is_from_form: bool = False) -> dict[str, int]:
    """Predict the parts of a job that are not there yet; returns counts. Two at once repeat each other's work."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    bucket = workspace.bucket
    job = find_job(bucket, job_id)
    if _finished(bucket, job) is not None:
        return {"images": job.n_images, "predicted": 0}
    if job.versions != _versions():
        planned, here = (", ".join(sorted(a - b)) for a, b in _both_ways(job.versions, _versions()))
        raise UnusableInputError(f"job {job_id}: planned with {planned}, found {here} here: plan it again")
    source = open_source(workspace, job.source, job.task, is_from_form=is_from_form)
    path = verified_path(bucket, f"{job.folder}/pictures.parquet", job.pictures_sha256, kind="list")
    done = _parts(bucket, job)
    sizes = {
        number: min(PART_IMAGES, job.n_images - number * PART_IMAGES)
        for number in range(-(-job.n_images // PART_IMAGES))
    }
    left = [number for number in sizes if number not in done]
    with progress("predict", job.n_images) as advance, pq.ParquetFile(path) as listed:
        groups = [listed.metadata.row_group(number).num_rows for number in range(listed.num_row_groups)]
        if groups != [*sizes.values()]:
            raise UnusableInputError(
                f"job {job_id}: found {plural(len(groups), 'part')} in its list, expected {len(sizes):,} of "
                f"{PART_IMAGES:,} pictures: plan it again"
            )
        advance(sum(sizes[number] for number in done if number in sizes))
        if not left:
            return {"images": job.n_images, "predicted": 0}
        served = load_served(bucket, job.model_file)
        schema = table_schema(served.classes)
        predictions = predict_pictures(served, _asked(source, listed, left))
        for number in left:
            rows = [one.as_row(served.classes) for one in islice(predictions, sizes[number])]
            _put_part(bucket, job, number, pa.Table.from_pylist(rows, schema))
            advance(len(rows))
    return {"images": job.n_images, "predicted": sum(sizes[number] for number in left)}


def _both_ways(one: Iterable[str], other: Iterable[str]) -> Iterator[tuple[set[str], set[str]]]:
    yield set(one), set(other)
    yield set(other), set(one)


def _asked(source: PictureSource, listed: Any, parts: Iterable[int]) -> Iterator[PictureToPredict]:
    for number in parts:
        for row in listed.read_row_group(number).to_pylist():
            yield PictureToPredict(
                image=row["image"],
                load=partial(source.read, row["place"], row["stamp"]),
                metadata={name: row[name] for name in METADATA if row[name] is not None},
            )


def _put_part(bucket: Bucket, job: PredictionJob, number: int, table: "pa.Table") -> None:
    """Store a part under the digest of its bytes, so that it can be held against its name."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    data = buffer.getvalue()
    bucket.put(f"{job.folder}/parts/{number:06d}-{hashlib.sha256(data).hexdigest()}.parquet", data)


def _parts(bucket: Bucket, job: PredictionJob) -> dict[int, str]:
    """The key of each part that is there, whole, by number. A damaged one is removed, and is made again."""
    found: dict[int, str] = {}
    for key in list(bucket.list_keys(f"{job.folder}/parts/")):
        named = _PART.fullmatch(key.rpartition("/")[2])
        if named is None:
            continue
        with suppress(MissingObjectError):
            if bucket.digest(key) == named[2]:
                found.setdefault(int(named[1]), key)
            else:
                log.warning("part %s was changed after it was stored: it is predicted again", key)
                bucket.delete(key)
    return found


def _finished(bucket: Bucket, job: PredictionJob) -> PredictionResult | None:
    """What the job made, if it is finished and all its files are as they were written."""
    try:
        result = PredictionResult.model_validate_json(bucket.get(f"{job.folder}/result.json"))
        for name, sha256 in result.sha256_by_file.items():
            if bucket.digest(key_of(job.job_id, name)) != sha256:
                raise AlteredObjectError(f"{name} was changed after it was stored")
    except MissingObjectError:
        return None
    except (AlteredObjectError, ValueError) as error:
        log.warning("job %s: %s: it is made again", job.job_id, error)
        return None
    return result


def finish_predictions(workspace: Workspace, job_id: str) -> PredictionResult:
    """Join the parts of a job into its tables, and write the page about them; the parts are deleted then."""
    bucket = workspace.bucket
    job = find_job(bucket, job_id)
    result = _finished(bucket, job)
    if result is None:
        try:
            result = _join(bucket, job)
        except MissingObjectError:
            # Another run of the same job may have finished it, and deleted the parts.
            result = _finished(bucket, job)
            if result is None:
                raise
    for key in list(bucket.list_keys(f"{job.folder}/parts/")):
        bucket.delete(key)
    for name in (*TABLES, PAGE):
        log.info("%s/%s", bucket.url, key_of(job_id, name))
    return result


def _join(bucket: Bucket, job: PredictionJob) -> PredictionResult:
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    from lesion_tasks.reports.prediction_page import render_prediction_page

    parts = _parts(bucket, job)
    n_parts = -(-job.n_images // PART_IMAGES)
    if missing := [number for number in range(n_parts) if number not in parts]:
        raise MissingObjectError(f"{job.folder}/parts/{missing[0]:06d}-*.parquet", bucket.url)
    manifest = read_model_file(bucket, job.model_file)[1]
    summary = _summary(job, manifest)
    schema = table_schema(summary.classes)
    digests = {}
    listed = pq.ParquetFile(
        verified_path(bucket, f"{job.folder}/pictures.parquet", job.pictures_sha256, kind="list")
    )
    is_of_cohort = LEFT_OUT in listed.schema_arrow.names
    if is_of_cohort:
        schema = schema.append(listed.schema_arrow.field(LEFT_OUT))
    with listed, scratch_file("predictions.parquet") as parquet, scratch_file("predictions.csv") as csv:
        with pq.ParquetWriter(parquet, schema) as rows, pc.CSVWriter(csv, schema) as lines:
            for number in range(n_parts):
                key = parts[number]
                data = get_verified(bucket, key, key[-len(".parquet") - 64 : -len(".parquet")], kind="part")
                table = pq.read_table(io.BytesIO(data))
                if is_of_cohort:
                    column = listed.read_row_group(number, columns=[LEFT_OUT])[LEFT_OUT]
                    table = table.append_column(schema.field(LEFT_OUT), column)
                rows.write_table(table)
                lines.write_table(_for_spreadsheets(table))
                _add(summary, table.to_pylist())
        for path in (parquet, csv):
            bucket.put_file(f"{job.folder}/{path.name}", path, content_type=TABLES[path.name])
            digests[path.name] = digest_of_file(path)
    page = render_prediction_page(summary).encode()
    bucket.put(key_of(job.job_id, PAGE), page, content_type="text/html; charset=utf-8")
    digests[PAGE] = hashlib.sha256(page).hexdigest()
    result = PredictionResult(
        job_id=job.job_id,
        model=job.training_id,
        n_images=summary.n_images,
        n_predicted=summary.n_predicted,
        n_by_prediction=summary.n_by_prediction,
        n_refused={reason: found.n for reason, found in summary.refused.items()},
        notes=job.notes,
        sha256_by_file=digests,
    )
    bucket.put(
        f"{job.folder}/result.json",
        result.model_dump_json(indent=2).encode(),
        content_type="application/json",
    )
    return result


def _for_spreadsheets(table: "pa.Table") -> "pa.Table":
    """A tab before each name that a spreadsheet would run as a formula, as the archive's snapshot has it."""
    import pyarrow.compute as pc

    names = table["image"]
    guarded = pc.binary_join_element_wise("\t", names, "")
    is_formula = pc.match_substring_regex(names, r"^\s*[=+\-@]")
    return table.set_column(0, table.schema.field("image"), pc.if_else(is_formula, guarded, names))


def _summary(job: PredictionJob, manifest: Mapping[str, Any]) -> "PredictionSummary":
    from lesion_tasks.reports.prediction_page import PredictionSummary

    return PredictionSummary(
        source=job.source,
        model=job.training_id,
        model_sha256=job.model_sha256,
        classes=list(manifest["classes"]),
        threshold=manifest["threshold"],
        n_by_prediction=dict.fromkeys(manifest["classes"], 0),
        notes=list(job.notes),
    )


def _add(summary: "PredictionSummary", rows: list[dict[str, Any]]) -> None:
    """Count some rows in."""
    from lesion_tasks.reports.prediction_page import N_BINS, Refusals

    columns = [f"{PROBABILITY_PREFIX}{name}" for name in summary.classes]
    shown = columns[1:] if len(columns) == 2 else columns
    summary.n_images += len(rows)
    summary.head += rows[: max(0, N_HEAD_ROWS - len(summary.head))]
    for row in rows:
        if row["reason"] is None:
            summary.n_predicted += 1
            summary.n_by_prediction[row["prediction"]] += 1
            if row["answer"] is None:
                doubt = row["doubt"] or "no answer"
                summary.n_by_doubt[doubt] = summary.n_by_doubt.get(doubt, 0) + 1
            score = max(row[name] for name in shown)
            summary.histogram[min(int(score * N_BINS), N_BINS - 1)] += 1
        else:
            found = summary.refused.setdefault(row["reason"], Refusals(n=0, examples=[]))
            found.n += 1
            if len(found.examples) < N_EXAMPLES:
                found.examples.append((row["image"], row["detail"] or ""))


def copy_to_folder(bucket: Bucket, result: PredictionResult, folder: Path) -> None:
    """Copy the tables and the page of a finished job to a folder, each held against its digest."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in result.sha256_by_file.items():
        path = verified_path(bucket, key_of(result.job_id, name), sha256, kind="file")
        shutil.copyfile(path, folder / name)
