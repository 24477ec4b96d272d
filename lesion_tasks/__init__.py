"""From the ISIC Archive to a champion, in the order the data takes.

    record -> image -> split -> training -> evaluation -> champion

    ingest       the archive -> versioned records and verified files
    curate       records and files -> images, or rejects with a reason
    split        images -> group assignments and one immutable manifest
    materialize  manifest -> shards of decoded pixels
    train        variant and manifest -> a stored model and keyed predictions
    evaluate     training -> a report bundle and a verdict
    promote      evaluations -> a decision, and perhaps a new champion
    predict      pictures and the champion -> predictions
    watch        the champion and what arrived since -> what has shifted, and how its figures hold

Steps meet in tables and objects, never in Python. None of them imports Airflow.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lesion_tasks.serving.serve import Champion

__version__ = "0.1.0"

# The order of the path, and of imports: a room imports only from those before it.
ROOMS = (
    "progress",
    "scratch",
    "addresses",
    "catalog",
    "settings",
    "metrics",
    "reports",
    "archive",
    "bucket",
    "database",
    "workspace",
    "ingest",
    "curation",
    "splits",
    "pixels",
    "training",
    "evaluation",
    "promotion",
    "serving",
    "watching",
    "upkeep",
    "pages",
    "cli",
    "laptop",
    "deployment",
    "__main__",
)

MAX_MESSAGE_CHARACTERS = 1_200  # a length that people still read


class _TellableError(Exception):
    """An error whose message is for people: it never holds the user or password of an address, and is not too long."""

    max_characters = MAX_MESSAGE_CHARACTERS

    def __init__(self, message: str) -> None:
        # Not at the top: importing the package must not load any of its modules.
        from lesion_tasks.addresses import masked

        told = masked(message)
        if len(told) > self.max_characters:
            half = self.max_characters // 2
            told = f"{told[:half]} [...] {told[-half:]}"
        super().__init__(told)


class UnusableInputError(_TellableError):
    """The input or a setting is wrong and will stay wrong: fail at once, do not retry.

    The message says what was wrong, what was found and what was expected.
    """


class UnavailableError(_TellableError):
    """Something did not answer despite immediate retries: worth trying again later.

    The message says what did not answer, and what it said.
    """


def open_champion(task: str = "malignancy", *, bucket: str | None = None) -> "Champion":
    """Load the champion of a task from a bucket, without a database; its digest is held against `champion.json`.

    `bucket` is a directory or s3://bucket/prefix; by default the setting LESION_BUCKET_URL. Raises `UnusableInputError`
    if there is no champion, or its file is missing, altered or damaged, and `UnavailableError` if the bucket does not
    answer.
    """
    # Not at the top: importing the package must not load any of its modules.
    from lesion_tasks.bucket import open_bucket
    from lesion_tasks.serving.serve import open_champion as load
    from lesion_tasks.settings import checked_bucket_url, read_settings

    settings = read_settings()
    name, url = "LESION_BUCKET_URL", settings.bucket_url
    if bucket is not None:
        name, url = "bucket", checked_bucket_url(bucket, "bucket")
    if not url.startswith("s3://") and not Path(url).is_dir():
        raise UnusableInputError(f"{name} {url!r}: found no such directory, expected one with a champion")
    return load(open_bucket(settings.model_copy(update={"bucket_url": url})), task)
