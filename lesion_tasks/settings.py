"""Environment -> one frozen `Settings`: the only reader of `os.environ`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS

PUBLIC_ARCHIVE_URL = "https://api.isic-archive.com/api/v2/"
# The public archive answers with file URLs on these hosts.
PUBLIC_FILE_HOSTS = frozenset({"isic-archive.s3.amazonaws.com", "content.isic-archive.com"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where things are. Every field has one environment variable, `LESION_<FIELD>`."""

    home: Path  # embedded Postgres, the directory bucket and caches live here
    database_url: str | None  # SQLAlchemy URL; None: the embedded Postgres under `home`
    bucket_url: str  # a directory, or s3://bucket/prefix
    archive_url: str  # base URL of an ISIC Archive API v2, with its trailing slash
    archive_hosts: frozenset[str]  # hosts that record and file URLs may name
    query: str  # search DSL that limits what is ingested; unset: image_type:dermoscopic, empty: everything
    max_records: int | None  # for trying: read about this many records of each scope and no more; empty: all
    variants: tuple[str, ...]  # what scheduled retraining trains; empty: the catalogue's default
    weights: str  # pretrained: "imagenet" (default), a folder or file, "bucket:" and a key; or "none"
    code_version: str  # git commit, or the package's version

    @property
    def cache(self) -> Path:
        """Local copies of bucket objects that are read by memory map."""
        return self.home / "cache"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every `LESION_*` variable, or raise `UnusableInputError` naming the bad one."""
    env = os.environ if environ is None else environ
    home = Path(env.get("LESION_HOME") or "var").absolute()
    archive_url = _archive_url(env.get("LESION_ARCHIVE_URL") or PUBLIC_ARCHIVE_URL)
    extra_hosts = frozenset(filter(None, (h.strip() for h in env.get("LESION_ARCHIVE_HOSTS", "").split(","))))
    return Settings(
        home=home,
        database_url=_database_url(env.get("LESION_DATABASE_URL") or None),
        bucket_url=_bucket_url(env.get("LESION_BUCKET_URL") or str(home / "bucket")),
        archive_url=archive_url,
        archive_hosts=PUBLIC_FILE_HOSTS | extra_hosts | {urlsplit(archive_url).hostname or ""},
        query=env.get("LESION_QUERY", "image_type:dermoscopic"),
        max_records=_count("LESION_MAX_RECORDS", env.get("LESION_MAX_RECORDS") or None),
        variants=_variants(env.get("LESION_VARIANTS", "")),
        weights=env.get("LESION_WEIGHTS") or "imagenet",
        code_version=env.get("LESION_CODE_VERSION") or _code_version(),
    )


def _archive_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UnusableInputError(
            f"LESION_ARCHIVE_URL {url!r}: expected an http or https address such as {PUBLIC_ARCHIVE_URL}"
        )
    return url if url.endswith("/") else url + "/"


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UnusableInputError(f"{name} {text!r}: expected a whole number of at least 1")
    return int(text)


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    for name in names:
        if name not in VARIANTS:
            raise UnusableInputError(
                f"LESION_VARIANTS {text!r}: unknown variant {name!r}, expected some of {', '.join(sorted(VARIANTS))}"
            )
    return names


def _database_url(url: str | None) -> str | None:
    if url is not None and not url.startswith(("postgresql://", "postgresql+psycopg2://")):
        raise UnusableInputError(
            f"LESION_DATABASE_URL: scheme {url.split(':', 1)[0]!r} found, expected postgresql+psycopg2://"
        )
    return url


def _bucket_url(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme == "s3" and not urlsplit(url).netloc:
        raise UnusableInputError(f"LESION_BUCKET_URL {url!r}: no bucket name, expected s3://bucket/prefix")
    if scheme not in {"", "s3", "file"}:
        raise UnusableInputError(f"LESION_BUCKET_URL {url!r}: expected a directory or s3://bucket/prefix")
    return url.removeprefix("file://")


def _code_version() -> str:
    """The checkout's commit where there is one, else the package's version."""
    from lesion_tasks import __version__

    git = Path(__file__).parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:12]
        return (git / head.removeprefix("ref: ")).read_text().strip()[:12]
    except OSError:
        return __version__
