"""Environment -> one frozen `Settings`: the only reader of `os.environ`."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lesion_tasks import UnusableInputError
from lesion_tasks.addresses import MalformedAddressError, is_host, masked, shown, split_address
from lesion_tasks.catalog import VARIANTS

PUBLIC_ARCHIVE_URL = "https://api.isic-archive.com/api/v2/"
# The public archive answers with file URLs on these hosts.
PUBLIC_FILE_HOSTS = frozenset({"isic-archive.s3.amazonaws.com", "content.isic-archive.com"})
MAX_RECORDS = 10_000_000  # as many as there are ISIC ids
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_BUCKET_PREFIX = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.=+-]*(/[A-Za-z0-9_][A-Za-z0-9_.=+-]*)*)?")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where things are. Every field has one environment variable, `LESION_<FIELD>`."""

    home: Path  # embedded Postgres, the directory bucket and caches live here
    database_url: str | None  # SQLAlchemy URL; None: the embedded Postgres under `home`
    bucket_url: str  # a directory, or s3://bucket/prefix
    archive_url: str  # base URL of an ISIC Archive API v2, with its trailing slash
    archive_hosts: frozenset[str]  # hosts that record and file URLs may name
    source_folders: tuple[Path, ...]  # a form may name sources below these, with commas; empty: none
    query: str  # search DSL that limits what is ingested; unset: image_type:dermoscopic, empty: everything
    max_records: int | None  # for trying: read about this many records of each scope and no more; empty: all
    variants: tuple[str, ...]  # what scheduled retraining trains; empty: the catalogue's default
    weights: str  # pretrained: "imagenet" (default), a folder or file, "bucket:" and a key; or "none"
    approval: str  # "never" (default) or "always": whether a person is asked before a promotion is decided
    approvers: tuple[
        str, ...
    ]  # names of users who may answer, and who may promote despite a gate; empty: anybody
    code_version: str  # git commit, or the package's version

    @property
    def is_approval_asked(self) -> bool:
        """Whether a person is asked where a run does not say."""
        return self.approval == "always"

    @property
    def cache(self) -> Path:
        """Local copies of bucket objects that are read by memory map."""
        return self.home / "cache"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every `LESION_*` variable, or raise `UnusableInputError` naming the bad one."""
    env = os.environ if environ is None else environ
    _check_characters(env)
    home = Path(env.get("LESION_HOME") or "var").absolute()
    archive_url = _archive_url(env.get("LESION_ARCHIVE_URL") or PUBLIC_ARCHIVE_URL)
    return Settings(
        home=home,
        database_url=_database_url(env.get("LESION_DATABASE_URL") or None),
        bucket_url=_bucket_url(env.get("LESION_BUCKET_URL") or str(home / "bucket")),
        archive_url=archive_url,
        archive_hosts=PUBLIC_FILE_HOSTS
        | _hosts(env.get("LESION_ARCHIVE_HOSTS", ""))
        | {urlsplit(archive_url).hostname or ""},
        source_folders=_folders(env.get("LESION_SOURCE_FOLDERS", "")),
        query=env.get("LESION_QUERY", "image_type:dermoscopic"),
        max_records=_count("LESION_MAX_RECORDS", env.get("LESION_MAX_RECORDS") or None),
        variants=_variants(env.get("LESION_VARIANTS", "")),
        weights=env.get("LESION_WEIGHTS") or "imagenet",
        approval=_choice("LESION_APPROVAL", env.get("LESION_APPROVAL") or "never", ("never", "always")),
        approvers=tuple(filter(None, (name.strip() for name in env.get("LESION_APPROVERS", "").split(",")))),
        code_version=env.get("LESION_CODE_VERSION") or _code_version(),
    )


def _choice(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise UnusableInputError(f"{name} {text!r}: expected one of {', '.join(allowed)}")
    return text


def _check_characters(env: Mapping[str, str]) -> None:
    """Refuse what no setting can hold: control characters, and bytes that are no UTF-8."""
    for name, value in env.items():
        if not name.startswith("LESION_"):
            continue
        if not value.isprintable():
            raise UnusableInputError(
                f"{name} {masked(value)[:200]!a}: expected printable characters in UTF-8"
            )


def _words(text: str) -> list[str]:
    """Return what stands between commas."""
    return list(filter(None, (word.strip() for word in text.split(","))))


def _split_address(name: str, url: str, expected: str) -> SplitResult:
    try:
        return split_address(url)
    except MalformedAddressError as error:
        raise UnusableInputError(f"{name} {shown(url)[:200]!r}: {error}; expected {expected}") from None


def _archive_url(url: str) -> str:
    expected = f"an http or https address such as {PUBLIC_ARCHIVE_URL}"
    parts = _split_address("LESION_ARCHIVE_URL", url, expected)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise UnusableInputError(f"LESION_ARCHIVE_URL {shown(url)[:200]!r}: expected {expected}")
    return url if url.endswith("/") else url + "/"


def _hosts(text: str) -> frozenset[str]:
    names = _words(text.lower())
    for name in names:
        if not is_host(name):
            raise UnusableInputError(
                f"LESION_ARCHIVE_HOSTS: {shown(name)[:200]!r} found, expected names of hosts, without scheme or port"
            )
    return frozenset(names)


def _folders(text: str) -> tuple[Path, ...]:
    names = _words(text)
    for name in names:
        if not name.startswith("/"):
            raise UnusableInputError(f"LESION_SOURCE_FOLDERS: {name[:200]!r} found, expected absolute paths")
    return tuple(map(Path, names))


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    # Not longer than the largest: Python reads no number of thousands of digits.
    if not text.isdecimal() or len(text) > len(str(MAX_RECORDS)) or not 1 <= int(text) <= MAX_RECORDS:
        raise UnusableInputError(
            f"{name} {text[:80]!r}: expected a whole number of at least 1, at most {MAX_RECORDS}"
        )
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
    if url is None:
        return None
    if not url.startswith(("postgresql://", "postgresql+psycopg2://")):
        # Without "://" there is no telling which part is the password.
        found = f"scheme {url.partition('://')[0][:40]!r}" if "://" in url else "no scheme"
        raise UnusableInputError(f"LESION_DATABASE_URL: {found} found, expected postgresql+psycopg2://")
    # Without its user: a password may hold what no other part of an address may.
    _split_address(
        "LESION_DATABASE_URL", masked(url), "postgresql+psycopg2://user:password@host:port/database"
    )
    return url


def _bucket_url(url: str) -> str:
    expected = "expected a directory or s3://bucket/prefix"
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in {"", "s3", "file"}:
        raise UnusableInputError(f"LESION_BUCKET_URL {shown(url)[:200]!r}: {expected}")
    if scheme != "s3":
        path = url.removeprefix("file://")
        if scheme == "file" and not path.startswith("/"):
            raise UnusableInputError(
                f"LESION_BUCKET_URL {url[:200]!r}: expected file:// and an absolute path"
            )
        return path
    name, _, prefix = url.removeprefix("s3://").partition("/")
    if not _BUCKET_NAME.fullmatch(name) or not _BUCKET_PREFIX.fullmatch(prefix.rstrip("/")):
        found = "no bucket name" if not name else "no name of a bucket and words between slashes"
        raise UnusableInputError(
            f"LESION_BUCKET_URL {shown(url)[:200]!r}: {found}, expected s3://bucket/prefix"
        )
    return url


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
