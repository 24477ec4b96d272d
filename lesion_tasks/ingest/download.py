"""Wanted files -> downloaded, held against length and hash, and stored with the rows that name them; or refusals.

One event loop downloads. It also verifies files if they are small and the bucket is a directory; otherwise threads do.
Outcomes are committed in batches.
"""

import asyncio
import hashlib
import io
import logging
import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.client import (
    MAX_UNREACHABLE_IN_A_ROW,
    ArchiveUnavailableError,
    Body,
    OversizedError,
    RefusedUrlError,
    Retry,
)
from lesion_tasks.archive.image_ids import folder_of
from lesion_tasks.archive.listing import Listing
from lesion_tasks.archive.picture import MAX_FILE_BYTES, Picture, Unusable, open_picture, read_picture
from lesion_tasks.archive.printable import printable
from lesion_tasks.archive.zipped import DamagedFileError
from lesion_tasks.bucket import Bucket
from lesion_tasks.catalog.printed_numbers import percent
from lesion_tasks.database.bulk import upsert_rows
from lesion_tasks.ingest.scope import ScopeKey, open_listing
from lesion_tasks.ingest.wanted import COUNT_WANTED, THUMBNAIL_PX, WANTED
from lesion_tasks.metrics.counted import plural
from lesion_tasks.progress import Advance, progress

log = logging.getLogger(__name__)

MAX_BYTES = {"thumbnail_256": 4 * 2**20, "full": MAX_FILE_BYTES}
ROWS_PER_COMMIT = 250
ROWS_PER_QUERY = 2_000
N_VERIFIERS = 2  # threads that decode and store; Pillow works outside Python's lock
# Handing a smaller file to a thread costs more than verifying it: both then wait for Python's lock.
MIN_BYTES_FOR_THREAD = 65_536
N_DOWNLOADS_OF_ONE_FILE = 3  # when what arrived does not match its ETag or is damaged

# One unusable file in twenty is more than any public archive has; below 20 files a share means nothing.
MAX_FAILED_SHARE = 0.05
MIN_FAILED = 20
N_EXAMPLES = 3  # shown for each reason
NETWORK_REASONS = frozenset({"unreachable", "file_missing"})

_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    isic_id: str
    url: str | None  # as in the record, signature included; None: the record names no file
    record_size_bytes: int | None
    n_attempts: int  # earlier failed attempts at this URL
    has_file: bool  # an earlier file is in the bucket


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """One row of stored_file."""

    wanted: _Wanted
    object_key: str | None = None
    size_bytes: int | None = None
    picture: Picture | None = None
    etag: str | None = None
    refusal: Unusable | None = None

    @property
    def keeps_earlier_file(self) -> bool:
        """If a replaced file cannot be fetched right now, the earlier one is kept."""
        return self.wanted.has_file and self.refusal is not None and self.refusal.reason in NETWORK_REASONS


class Downloading:
    """One run over one range of ids."""

    def __init__(self, key: ScopeKey, values: dict[str, Any]) -> None:
        self.key = key
        self.values = values
        self.rendition: str = values["rendition"]
        self.bucket: Bucket = key.workspace.bucket
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)  # by reason
        self.n_first_tries: Counter[str] = Counter()  # of files tried for the first time: failed, stored
        self.n_unreachable_in_a_row = 0
        self.n_bytes = 0

    async def run(self, n_connections: int, retry: Retry) -> dict[str, Any]:
        n_wanted = await asyncio.to_thread(self._n_wanted)
        if n_wanted:
            async with open_listing(self.key, n_connections=n_connections, retry=retry) as listing:
                with (
                    progress(f"fetching files of {self.key.title}", n_wanted) as advance,
                    # Storing in a remote bucket is mostly waiting, so there are as many threads as downloads.
                    ThreadPoolExecutor(N_VERIFIERS if self.bucket.is_local else n_connections) as pool,
                ):
                    await self._fetch_all(listing, pool, n_connections + N_VERIFIERS, advance)
        self._raise_if_too_many_failed()
        return self._report()

    def _n_wanted(self) -> int:
        with self.key.workspace.session() as session:
            return session.scalar(COUNT_WANTED, self.values) or 0

    async def _fetch_all(
        self, listing: Listing, pool: ThreadPoolExecutor, n_workers: int, advance: Advance
    ) -> None:
        """Workers take files and put outcomes; both queues are bounded, and so is memory."""
        todo: asyncio.Queue[_Wanted | None] = asyncio.Queue(2 * n_workers)
        done: asyncio.Queue[_Outcome | None] = asyncio.Queue(2 * n_workers)

        async def feed() -> None:
            async for wanted in self._wanted():
                await todo.put(wanted)
            for _ in range(n_workers):
                await todo.put(None)

        async def work() -> None:
            while (wanted := await todo.get()) is not None:
                await done.put(await self._fetch(listing, pool, wanted))

        async def work_all() -> None:
            async with asyncio.TaskGroup() as workers:
                for _ in range(n_workers):
                    workers.create_task(work())
            await done.put(None)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feed())
                group.create_task(work_all())
                group.create_task(self._write(done, advance))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _wanted(self) -> AsyncIterator[_Wanted]:
        """Read wanted files in chunks, by id; files that this run has refused are not offered to it again."""
        after = ""
        statement = text(
            f"SELECT * FROM ({WANTED}) AS wanted WHERE isic_id > :after ORDER BY isic_id LIMIT :n"  # noqa: S608
        )

        def read() -> Sequence[Any]:
            with self.key.workspace.session() as session:
                return session.execute(statement, self.values | {"after": after, "n": ROWS_PER_QUERY}).all()

        while rows := await asyncio.to_thread(read):
            for row in rows:
                yield _Wanted(
                    isic_id=row.isic_id,
                    url=row.url,
                    record_size_bytes=row.record_size_bytes,
                    n_attempts=row.n_attempts,
                    has_file=row.has_file,
                )
            after = rows[-1].isic_id

    async def _fetch(self, listing: Listing, pool: ThreadPoolExecutor, wanted: _Wanted) -> _Outcome:
        """Download, verify and store one file. A network failure is an outcome too."""
        if wanted.url is None:
            return _refused(wanted, "no_file", "the record names no file")
        digest = ""
        for attempt in range(N_DOWNLOADS_OF_ONE_FILE):
            body = await self._download(listing, wanted, wanted.url)
            if isinstance(body, Unusable):
                return _Outcome(wanted=wanted, refusal=body)
            if self.bucket.is_local and len(body.data) < MIN_BYTES_FOR_THREAD:
                outcome = self._verify_and_store(wanted, body, digest)
            else:
                outcome = await asyncio.get_running_loop().run_in_executor(
                    pool, self._verify_and_store, wanted, body, digest
                )
            known = hashlib.sha256(body.data).hexdigest() if outcome.refusal else ""
            # If the same bad bytes arrive twice, the server has them; other bytes may have been damaged on the way.
            if outcome.refusal is None or known == digest or attempt == N_DOWNLOADS_OF_ONE_FILE - 1:
                return outcome
            digest = known
        raise AssertionError("the last attempt returns")

    async def _download(self, listing: Listing, wanted: _Wanted, url: str) -> Body | Unusable:
        try:
            body = await listing.file(
                url, max_bytes=MAX_BYTES[self.rendition if listing.has_prefixes else "full"]
            )
        except RefusedUrlError as error:
            return Unusable(reason="refused_url", detail=str(error))
        except OversizedError as error:
            return Unusable(reason="too_large", detail=str(error))
        except DamagedFileError as error:
            return Unusable(reason="damaged", detail=str(error))
        except ArchiveUnavailableError as error:
            self.n_unreachable_in_a_row += 1
            if self.n_unreachable_in_a_row >= MAX_UNREACHABLE_IN_A_ROW:
                raise ArchiveUnavailableError(
                    f"{plural(self.n_unreachable_in_a_row, 'file')} in a row could not be fetched; the last: {error}"
                ) from error
            return Unusable(reason="unreachable", detail=str(error)[:500])
        self.n_unreachable_in_a_row = 0
        if body.status != 200:
            return Unusable(reason="file_missing", detail=f"status {body.status} for {url.partition('?')[0]}")
        return body

    def _verify_and_store(self, wanted: _Wanted, body: Body, digest_before: str) -> _Outcome:
        """Decode, hash and store one file."""
        data = body.data
        found = _MD5_ETAG.fullmatch(body.etag or "")
        # Encrypted buckets have ETags that look like MD5 but are not: two equal downloads count for more.
        if found and hashlib.md5(data, usedforsecurity=False).hexdigest() != found[1]:
            if hashlib.sha256(data).hexdigest() != digest_before:
                return _refused(
                    wanted, "damaged", f"{plural(len(data), 'byte')} do not match ETag {body.etag}"
                )
            log.info("%s: its ETag is not the MD5 of its bytes", wanted.isic_id)
        picture = read_picture(data)
        if isinstance(picture, Picture) and self.rendition == "thumbnail_256":
            data, picture = _shrink_thumbnail(data, picture)
        if isinstance(picture, Unusable):
            return _Outcome(wanted=wanted, refusal=picture)
        object_key = (
            f"images/{self.rendition}/{folder_of(wanted.isic_id, picture.sha256)}/"
            f"{wanted.isic_id}-{picture.sha256[:16]}.{picture.extension}"
        )
        self.bucket.put(object_key, data, content_type=picture.content_type)
        return _Outcome(
            wanted=wanted,
            object_key=object_key,
            size_bytes=len(data),
            picture=picture,
            etag=body.etag if data is body.data else None,
        )

    async def _write(self, done: "asyncio.Queue[_Outcome | None]", advance: Advance) -> None:
        batch: list[_Outcome] = []
        while True:
            outcome = await done.get()
            if outcome is not None:
                batch.append(outcome)
            if batch and (outcome is None or len(batch) >= ROWS_PER_COMMIT):
                await asyncio.to_thread(self._commit, batch)
                advance(len(batch), note=f"{self.counts['refused']:,} refused")
                batch = []
            if outcome is None:
                return

    def _commit(self, batch: list[_Outcome]) -> None:
        now = datetime.now(UTC)
        with self.key.workspace.session() as session:
            upsert_rows(
                session.connection(),
                "stored_file",
                ("isic_id", "rendition"),
                (_row(outcome, self.rendition, now) for outcome in batch if not outcome.keeps_earlier_file),
            )
        for outcome in batch:
            self.counts["refused" if outcome.refusal else "stored"] += 1
            self.n_bytes += outcome.size_bytes or 0
            if not outcome.wanted.n_attempts:
                self.n_first_tries["failed" if outcome.refusal else "stored"] += 1
            if outcome.refusal:
                self.reasons[outcome.refusal.reason] += 1
                examples = self.examples[outcome.refusal.reason]
                if len(examples) < N_EXAMPLES:
                    examples.append(f"{outcome.wanted.isic_id}: {printable(outcome.refusal.detail, 200)}")

    def _raise_if_too_many_failed(self) -> None:
        n_failed = self.counts["refused"]
        n_tried = n_failed + self.counts["stored"]
        if not n_failed:
            return
        # Files that failed before mostly fail again and are tried alone: their share is taken of the whole scope.
        n_usable = self._n_stored()
        is_large = _is_large_share(self.n_first_tries["failed"], self.n_first_tries.total())
        is_large |= _is_large_share(n_failed, n_failed + n_usable)
        # In a small selection every file may be bad; then nothing was ingested at all.
        if not is_large and n_usable:
            return
        shown = "; ".join(
            f"{n} {reason} ({self.examples[reason][0]})" for reason, n in self.reasons.most_common(4)
        )
        message = (
            f"{self.key.title}: {n_failed} of {plural(n_tried, 'file')} cannot be used, "
            f"expected at most {percent(MAX_FAILED_SHARE, 0)}: {shown}"
        )
        n_network = sum(n for reason, n in self.reasons.items() if reason == "unreachable")
        if 2 * n_network > n_failed:
            raise ArchiveUnavailableError(message)
        raise UnusableInputError(message)

    def _n_stored(self) -> int:
        statement = text("""
            SELECT count(*) FROM stored_file JOIN scope_record USING (isic_id)
            WHERE scope_id = :scope_id AND reason IS NULL
        """)
        with self.key.workspace.session() as session:
            return session.scalar(statement, {"scope_id": self.key.scope_id}) or 0

    def _report(self) -> dict[str, Any]:
        return {
            "stored": self.counts["stored"],
            "refused": self.counts["refused"],
            "size_bytes": self.n_bytes,
            "reasons": dict(self.reasons),
        } | ({"examples": dict(self.examples)} if self.examples else {})


def _is_large_share(n_failed: int, n_all: int) -> bool:
    return n_failed >= MIN_FAILED and n_failed > MAX_FAILED_SHARE * n_all


def _row(outcome: _Outcome, rendition: str, now: datetime) -> dict[str, Any]:
    wanted, picture, refusal = outcome.wanted, outcome.picture, outcome.refusal
    return {
        "isic_id": wanted.isic_id,
        "rendition": rendition,
        "url": (wanted.url or "").partition("?")[0],
        "object_key": outcome.object_key,
        "size_bytes": outcome.size_bytes,
        "sha256": picture.sha256 if picture else None,
        "perceptual_hash": picture.perceptual_hash if picture else None,
        "thumbprint": picture.thumbprint if picture else None,
        "etag": outcome.etag,
        "record_size_bytes": wanted.record_size_bytes,
        "width_px": picture.width_px if picture else None,
        "height_px": picture.height_px if picture else None,
        "reason": refusal.reason if refusal else None,
        "detail": printable(refusal.detail) if refusal else None,
        "n_attempts": wanted.n_attempts + 1,
        "fetched_at": now,
        "is_replaced": False,
    }


def _refused(wanted: _Wanted, reason: str, detail: str) -> _Outcome:
    return _Outcome(wanted=wanted, refusal=Unusable(reason=reason, detail=detail))


def _shrink_thumbnail(data: bytes, picture: Picture) -> tuple[bytes, Picture | Unusable]:
    """Make the archive's thumbnail of a larger picture: inside 256 x 256, Lanczos, JPEG quality 75."""
    if max(picture.width_px, picture.height_px) <= THUMBNAIL_PX:
        return data, picture
    small = io.BytesIO()
    image = open_picture(data)
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS, reducing_gap=None)
    image.save(small, "JPEG", quality=75)
    data = small.getvalue()
    fitted = read_picture(data)
    if isinstance(fitted, Picture):
        # The hash of the original: two copies of one picture stay similar whatever size they arrived in.
        fitted = replace(fitted, perceptual_hash=picture.perceptual_hash, thumbprint=picture.thumbprint)
    return data, fitted


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
