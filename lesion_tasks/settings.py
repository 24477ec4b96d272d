"""Environment -> one frozen `Settings`: all `LESION_*` variables are read here, but for the folder of the catalogue."""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from lesion_tasks import UnusableInputError
from lesion_tasks.addresses import MalformedAddressError, is_host, masked, shown, split_address
from lesion_tasks.catalog import (
    DEFAULT_VARIANTS,
    DEFAULT_WITH_WEIGHTS,
    DEFAULT_WITHOUT_WEIGHTS,
    VARIANTS,
    own_entries,
)
from lesion_tasks.catalog.approvals import ApprovalRules
from lesion_tasks.catalog.entries import unknown

PREFIX = "LESION_"
PUBLIC_ARCHIVE_URL = "https://api.isic-archive.com/api/v2/"
# The public archive answers with file URLs on these hosts.
PUBLIC_FILE_HOSTS = frozenset({"isic-archive.s3.amazonaws.com", "content.isic-archive.com"})
MAX_RECORDS = 10_000_000  # as many as there are ISIC ids
MAX_DAYS = 3_650
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_BUCKET_PREFIX = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.=+-]*(/[A-Za-z0-9_][A-Za-z0-9_.=+-]*)*)?")


def _words(found: str | Collection[Any]) -> Collection[Any]:
    """Return what stands between commas; a default is a collection already."""
    return tuple(filter(None, map(str.strip, found.split(",")))) if isinstance(found, str) else found


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


def _hosts(named: frozenset[str], found: ValidationInfo) -> frozenset[str]:
    """The hosts that are named, the public archive's, and the one of the archive that is asked."""
    for name in named:
        if not is_host(name):
            raise UnusableInputError(
                f"LESION_ARCHIVE_HOSTS: {shown(name)[:200]!r} found, expected names of hosts, without scheme or port"
            )
    asked = urlsplit(found.data["archive_url"]).hostname or ""
    return PUBLIC_FILE_HOSTS | {name.lower() for name in named} | {asked}


def _folders(names: Collection[str]) -> Collection[str]:
    for name in names:
        if not name.startswith("/"):
            raise UnusableInputError(f"LESION_SOURCE_FOLDERS: {name[:200]!r} found, expected absolute paths")
    return names


def _max_records(text: str | None) -> int | None:
    return None if text is None else _whole_number("LESION_MAX_RECORDS", text, MAX_RECORDS)


def _days(found: str | int, info: ValidationInfo) -> int:
    name = f"{PREFIX}{str(info.field_name).upper()}"
    return found if isinstance(found, int) else _whole_number(name, found, MAX_DAYS)


def _whole_number(name: str, text: str, largest: int) -> int:
    # Not longer than the largest: Python reads no number of thousands of digits.
    if not text.isdecimal() or len(text) > len(str(largest)) or not 1 <= int(text) <= largest:
        raise UnusableInputError(
            f"{name} {text[:80]!r}: expected a whole number of at least 1, at most {largest}"
        )
    return int(text)


def _variants(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in VARIANTS:
            raise UnusableInputError(
                f"LESION_VARIANTS: {unknown('variant', name, sorted(VARIANTS))}{own_entries.read_from()}"
            )
    return names


def _approval(text: str) -> str:
    if text not in {"never", "always"}:
        raise UnusableInputError(f"LESION_APPROVAL {text[:80]!r}: expected never or always")
    return text


def _retraining(text: str) -> str:
    if text not in {"never", "when_changed"}:
        raise UnusableInputError(f"LESION_RETRAINING {text[:80]!r}: expected never or when_changed")
    return text


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
    return checked_bucket_url(url, "LESION_BUCKET_URL")


def checked_bucket_url(url: str, name: str) -> str:
    """The address of a bucket, absolute. Raises `UnusableInputError` that names the setting or argument it came by."""
    expected = "expected a directory or s3://bucket/prefix"
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in {"", "s3", "file"}:
        raise UnusableInputError(f"{name} {shown(url)[:200]!r}: {expected}")
    if scheme != "s3":
        path = url.removeprefix("file://")
        if scheme == "file" and not path.startswith("/"):
            raise UnusableInputError(f"{name} {url[:200]!r}: expected file:// and an absolute path")
        return str(Path(path).absolute())
    bucket_name, _, prefix = url.removeprefix("s3://").partition("/")
    if not _BUCKET_NAME.fullmatch(bucket_name) or not _BUCKET_PREFIX.fullmatch(prefix.rstrip("/")):
        found = "no bucket name" if not bucket_name else "no name of a bucket and words between slashes"
        raise UnusableInputError(f"{name} {shown(url)[:200]!r}: {found}, expected s3://bucket/prefix")
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


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class Settings(BaseSettings):
    """Where things are. Every field has one environment variable, `LESION_<FIELD>`; an empty one counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    home: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path("var"), description="The embedded Postgres, the directory bucket and caches live here."
    )
    database_url: Annotated[str | None, AfterValidator(_database_url)] = Field(
        None,
        repr=False,
        description="A SQLAlchemy URL of a Postgres; unset: the embedded Postgres in the home folder.",
    )
    bucket_url: Annotated[str, AfterValidator(_bucket_url)] = Field(
        default_factory=lambda found: str(found["home"] / "bucket"),
        description="A directory, or s3://bucket/prefix; unset: a directory in the home folder.",
    )
    archive_url: Annotated[str, AfterValidator(_archive_url)] = Field(
        PUBLIC_ARCHIVE_URL, description="The base URL of an ISIC Archive API v2."
    )
    archive_hosts: Annotated[frozenset[str], NoDecode, BeforeValidator(_words), AfterValidator(_hosts)] = (
        Field(
            frozenset(),
            description="Comma-separated hosts that URLs of records and files may name, beside those of the public "
            "archive and the host of the archive's own URL.",
        )
    )
    source_folders: Annotated[
        tuple[Path, ...], NoDecode, BeforeValidator(_folders), BeforeValidator(_words)
    ] = Field(
        (), description="Comma-separated folders; Airflow's forms may name sources inside them; unset: none."
    )
    query: str = Field(
        "image_type:dermoscopic",
        description="What is ingested, in the archive's search language; empty: everything.",
    )
    max_records: Annotated[int | None, BeforeValidator(_max_records)] = Field(
        None,
        description="For trying things out: read about this many records of each scope and no more; unset: all.",
    )
    catalog: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        own_entries.DEFAULT_FOLDER,
        description="TOML files with tasks, splits, cohorts, backbones, variants, gates and schedules of your own.",
    )
    variants: Annotated[Words, AfterValidator(_variants)] = Field(
        (),
        description=(
            f"Comma-separated variants that scheduled retraining trains; unset: {', '.join(DEFAULT_VARIANTS)} and "
            f"{', '.join(DEFAULT_WITH_WEIGHTS)}, or {', '.join(DEFAULT_WITHOUT_WEIGHTS)} where LESION_WEIGHTS has not "
            "its file."
        ),
    )
    weights: str = Field(
        "imagenet",
        description='Pretrained weights: "imagenet", a folder or file, "bucket:" and a key, or "none".',
    )
    approval: Annotated[Literal["never", "always"], BeforeValidator(_approval)] = Field(
        "never",
        description="Whether a person is asked before a promotion or a correction is decided: never or always.",
    )
    approvers: Words = Field(
        (),
        description="Comma-separated users who may answer, who may promote despite a gate, and who may correct unasked "
        "where people are asked; unset: anybody.",
    )
    retraining: Annotated[Literal["never", "when_changed"], BeforeValidator(_retraining)] = Field(
        "never",
        description="Whether the champion's variant is trained again when a watch finds something beyond its bound: "
        "never or when_changed.",
    )
    notify: Words = Field(
        (),
        description="Comma-separated ids of Airflow connections to which notices go; unset: to the log only.",
    )
    champion_max_days: Annotated[int, BeforeValidator(_days)] = Field(
        180, description="After how many days without a new champion people are told."
    )
    ingestion_max_days: Annotated[int, BeforeValidator(_days)] = Field(
        3, description="After how many days without a complete ingestion people are told."
    )
    code_version: str = Field(
        default_factory=_code_version,
        description="The code version recorded with each training; unset: the commit of the checkout, or the version.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`read_settings` hands the values over: no file is read, and the environment not twice."""
        return (init_settings,)

    def as_environment(self) -> dict[str, str]:
        """The variables that say the same in another folder; the version of the code is left to whoever runs it."""
        return {
            f"{PREFIX}{name.upper()}": _as_text(value) for name, value in self if name not in {"code_version"}
        }

    @property
    def approval_rules(self) -> ApprovalRules:
        """Whether people are asked, and whose approval counts."""
        return ApprovalRules(is_set=self.approval == "always", approvers=self.approvers)

    def may_be_named_in_form(self, place: Path) -> bool:
        """Whether a form may name a folder or file: it is under a source folder. Says nothing of what is there."""
        try:
            resolved = place.resolve()
            return any(resolved.is_relative_to(allowed.resolve()) for allowed in self.source_folders)
        except (OSError, RuntimeError):  # names that are too long, circular links
            return False

    @property
    def cache(self) -> Path:
        """Local copies of bucket objects that are read by memory map."""
        return self.home / "cache"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read every `LESION_*` variable, or raise `UnusableInputError` naming the bad one.

    Of the process's own environment (the default) the catalogue folder is read too, and every mistake in it is raised.
    """
    env = os.environ if environ is None else environ
    _check_characters(env)
    if environ is None:
        own_entries.refuse_broken()
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in env.items()}
    found = source()
    return Settings(**{name: value for name, value in found.items() if value or name == "query"})


def _as_text(value: Any) -> str:
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(map(str, value)) if isinstance(value, frozenset) else map(str, value))
    return "" if value is None else str(value)


def _check_characters(env: Mapping[str, str]) -> None:
    """Refuse what no setting can hold: control characters, and bytes that are no UTF-8."""
    for name, value in env.items():
        if not name.startswith("LESION_"):
            continue
        if not value.isprintable():
            raise UnusableInputError(
                f"{name} {masked(value)[:200]!a}: expected printable characters in UTF-8"
            )
