"""The two sources that a server can serve: the synthetic archive, and a download folder."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from archive_server import synthetic
from archive_server.drawing import Scene, draw, recropped
from archive_server.holdings import Collection, Source, StoredFile
from archive_server.paging import EPOCH
from archive_server.synthetic_vocabulary import LOOKS
from archive_server.table import Table
from lesion_tasks import UnusableInputError
from lesion_tasks.archive import folder as download
from lesion_tasks.archive.picture import UnusablePictureError, open_picture, read_size_px
from lesion_tasks.archive.vocabulary import ISIC_ID

THUMBNAIL_PX = 256
THUMBNAIL_QUALITY = 75
SMALL_FILE_BYTES = 2**20  # reading less takes under a millisecond
FULL_QUALITY = 85
FIRST_COLLECTION_US = 1_500_000_000_000_000
_KINDS = ("dermoscopic", "clinical", "tile")  # by synthetic.DERMOSCOPIC, CLINICAL, TBP


class RecentFiles:
    """The most recently made files, by key: drawing one takes some ten milliseconds."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._files: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._files

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return the file under `key`, making it if it is no longer kept."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        content = make()
        with self._lock:
            self._files[key] = content
            while len(self._files) > self.capacity:
                self._files.popitem(last=False)
        return content


class SyntheticSource:
    """Drawn lesions: `n_images` at first, and as many more as are requested."""

    can_grow = True
    collections: tuple[Collection, ...] = (
        Collection(
            id=1,
            name="Synthetic challenge: dermoscopy",
            description="Dermoscopic images with a **diagnosis**.",
            query="image_type:dermoscopic diagnosis_1:*",
            created_us=FIRST_COLLECTION_US,
            doi="10.5072/synthetic-1",
            is_pinned=True,
        ),
        Collection(
            id=2,
            name="Histopathology",
            description="Diagnoses confirmed by histopathology.",
            query="diagnosis_confirm_type:histopathology",
            created_us=FIRST_COLLECTION_US + 1_000_000,
        ),
        Collection(
            id=3,
            name="Acral sites",
            description="Palms and soles.",
            query='anatom_site_special:"acral palms or soles"',
            created_us=FIRST_COLLECTION_US + 2_000_000,
            is_locked=False,
        ),
    )

    def __init__(self, n_images: int, seed: int = 0, *, tie_length: int = 1, n_kept_files: int = 512) -> None:
        if not 0 <= n_images <= synthetic.MAX_IMAGES:
            raise UnusableInputError(
                f"synthetic archive of {n_images} images: expected 0 to {synthetic.MAX_IMAGES}"
            )
        self.name = f"synthetic:{n_images}:{seed}" + (f":ties={tie_length}" if tie_length > 1 else "")
        self.n_images, self.seed, self.tie_length = n_images, seed, tie_length
        self._files = RecentFiles(n_kept_files)

    def n_initial(self) -> int:
        return self.n_images

    def load(self, n_images: int) -> tuple[Table, np.ndarray]:
        self.population = synthetic.populate(self.seed, n_images)
        self.created_us = synthetic.created_instants(self.seed, n_images, self.tie_length)
        self.sizes_px = synthetic.sizes_px(self.seed, self.population)
        # An estimate, like the real archive's, which is made before the file gets its final form. An exact size would
        # require drawing every listed image.
        jitter = synthetic.hashed(self.seed, "bytes", np.arange(n_images)) % np.uint64(1001)
        fitted = np.minimum(1.0, THUMBNAIL_PX / self.sizes_px.max(axis=1, initial=1))
        area = self.sizes_px.prod(axis=1) * 0.13
        self._sizes_bytes = {
            "full": area.astype(np.int64) + jitter.astype(np.int64) - 500,
            "thumbnail_256": (area * fitted**2).astype(np.int64) + jitter.astype(np.int64) - 500,
        }
        return synthetic.build_table(self.seed, self.population), self.created_us

    def complete(self, position: int, record: dict[str, Any]) -> None:
        pass

    def extension(self, position: int) -> str:
        return ".jpg"

    def size_bytes(self, position: int, rendition: str, record: Mapping[str, Any]) -> int:
        return int(self._sizes_bytes[rendition][position])

    def total_bytes(self, positions: np.ndarray) -> int:
        return int(self._sizes_bytes["full"][positions].sum())

    def file(self, position: int, rendition: str, revision: int) -> StoredFile:
        population = self.population
        drawn = int(population.drawn[position])
        key_position = drawn if population.is_identical[position] else position
        key = (key_position, revision)
        content = self._files.get((*key, "full"), lambda: self._full(key_position, drawn, revision))
        if rendition == "thumbnail_256":
            full = content
            content = self._files.get((*key, rendition), lambda: thumbnail(full))
        modified_at = EPOCH + timedelta(microseconds=int(self.created_us[position]), days=revision)
        return StoredFile(content=content, media_type="image/jpeg", modified_at=modified_at)

    def draw_ahead(self) -> None:
        """Make the first files, oldest image first, until as many are made as are kept."""
        for position in range(min(self._files.capacity, len(self.created_us))):
            self.file(position, "full", 0)

    def has_at_hand(self, position: int, rendition: str, revision: int) -> bool:
        key_position = (
            int(self.population.drawn[position]) if self.population.is_identical[position] else position
        )
        keys = {(key_position, revision, "full"), (key_position, revision, rendition)}
        return all(key in self._files for key in keys)

    def scene(self, position: int, revision: int = 0) -> Scene:
        """Return what the picture at a position shows; a new revision is a new photograph of the same lesion."""
        population = self.population
        width, height = (int(side) for side in self.sizes_px[position])
        patient = population.patient[position : position + 1]
        kind = _KINDS[int(population.image_type[position])]
        return Scene(
            look=LOOKS[int(population.look[position])][0],
            latent=float(population.latent[position]),
            lesion_seed=self._seed("lesion drawing", int(population.lesion[position])),
            photo_seed=self._seed(f"photograph {revision}", position),
            width_px=width,
            height_px=height,
            skin=int(synthetic.uniform(self.seed, "skin tone", patient)[0] ** 1.6 * 6),
            kind=kind,
        )

    def _full(self, position: int, drawn: int, revision: int) -> bytes:
        if position == drawn:
            return jpeg(draw(self.scene(position, revision)), FULL_QUALITY)
        # A copy is made from the stored file of the original, like another contributor's upload.
        original = Image.open(io.BytesIO(self.file(drawn, "full", 0).content))
        width, height = (int(side) for side in self.sizes_px[position])
        copy = recropped(original, (width, height), self._seed(f"recrop {revision}", position))
        return jpeg(copy, FULL_QUALITY - 10)

    def _seed(self, name: str, owner: int) -> int:
        return int(synthetic.hashed(self.seed, name, np.array([owner]))[0] >> np.uint64(1))


class FolderSource:
    """A download folder, in either layout. Rows whose id is malformed or repeated cannot be listed."""

    can_grow = False

    def __init__(self, path: str | Path, *, n_kept_files: int = 512) -> None:
        self.folder = download.open_folder(path)
        self.name = f"folder:{self.folder.metadata_path.resolve()}"
        self.records: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.created_us = np.empty(0, np.int64)
        created = []
        table_records = []
        seen: set[str] = set()
        for row_index, record in enumerate(download.read_records(self.folder)):
            isic_id = record["isic_id"]
            if not ISIC_ID.fullmatch(isic_id) or isic_id in seen:
                reason = "repeated" if isic_id in seen else "not ISIC_ and seven digits"
                self.skipped.append(f"row {row_index + 2}: isic_id {isic_id!r} is {reason}")
                continue
            seen.add(isic_id)
            table_records.append(record)
            created.append((download.row_instant(row_index) - EPOCH) // timedelta(microseconds=1))
        self.created_us = np.array(created, np.int64)
        self.table = Table.from_records(table_records)
        self._paths = [self.folder.path_of(record["isic_id"]) for record in table_records]
        self._sizes_px: dict[int, tuple[int, int] | None] = {}
        self._files = RecentFiles(n_kept_files)
        self.collections: tuple[Collection, ...] = (
            Collection(
                id=1,
                name=self.folder.root.name,
                description="Every image of the folder.",
                query="isic_id:*",
                created_us=FIRST_COLLECTION_US,
            ),
        )

    def n_initial(self) -> int:
        return self.table.n_records

    def load(self, n_images: int) -> tuple[Table, np.ndarray]:
        return self.table, self.created_us

    def complete(self, position: int, record: dict[str, Any]) -> None:
        acquisition = record["metadata"]["acquisition"]
        path = self._paths[position]
        if path is None or ("pixels_x" in acquisition and "pixels_y" in acquisition):
            return
        if position not in self._sizes_px:
            self._sizes_px[position] = read_size_px(path)
        size = self._sizes_px[position]
        if size is not None:
            acquisition["pixels_x"], acquisition["pixels_y"] = size

    def extension(self, position: int) -> str:
        path = self._paths[position]
        return path.suffix if path is not None else ".jpg"

    def size_bytes(self, position: int, rendition: str, record: Mapping[str, Any]) -> int:
        path = self._paths[position]
        if path is None or not path.exists():
            return 0
        if rendition == "full":
            return path.stat().st_size
        acquisition = record["metadata"]["acquisition"]
        width, height = acquisition.get("pixels_x", 1024), acquisition.get("pixels_y", 768)
        width, height = fitted_size(int(width), int(height))
        return int(
            width * height * 0.18
        )  # an estimate: an exact size would require making every listed thumbnail

    def total_bytes(self, positions: np.ndarray) -> int:
        paths = (self._paths[position] for position in positions)
        return sum(path.stat().st_size for path in paths if path is not None and path.exists())

    def file(self, position: int, rendition: str, revision: int) -> StoredFile | None:
        path = self._paths[position]
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC) + timedelta(days=revision)
        media_type = {".png": "image/png", ".tif": "image/tiff"}.get(path.suffix, "image/jpeg")
        if rendition == "thumbnail_256":
            # What cannot be decoded is served unchanged: the reader has to refuse it.
            full = content
            content = self._files.get((position, path.stat().st_mtime_ns), lambda: thumbnail(full))
            media_type = "image/jpeg"
        return StoredFile(content=content, media_type=media_type, modified_at=modified_at)

    def has_at_hand(self, position: int, rendition: str, revision: int) -> bool:
        path = self._paths[position]
        return path is None or (rendition == "full" and path.stat().st_size < SMALL_FILE_BYTES)


def source_from_text(text: str, *, tie_length: int = 1, n_kept_files: int = 512) -> Source:
    """Read `synthetic:IMAGES[:SEED]`, or a folder's path.

    Raises UnusableInputError if it is neither.
    """
    if not text.startswith("synthetic:"):
        return FolderSource(text, n_kept_files=n_kept_files)
    try:
        numbers = [int(part) for part in text.split(":")[1:]]
        n_images, seed = numbers if len(numbers) == 2 else (*numbers, 0)
    except ValueError:
        raise UnusableInputError(
            f"source {text!r}: expected synthetic:IMAGES[:SEED], two whole numbers"
        ) from None
    return SyntheticSource(n_images, seed, tie_length=tie_length, n_kept_files=n_kept_files)


def fitted_size(width: int, height: int) -> tuple[int, int]:
    """Scale to fit inside 256 x 256, aspect kept, never enlarged."""
    scale = min(1.0, THUMBNAIL_PX / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnail(content: bytes) -> bytes:
    """Return the archive's thumbnail of an image file: JPEG, quality 75, Lanczos; return other bytes unchanged."""
    try:
        small = open_picture(content)
    except UnusablePictureError:
        return content
    return jpeg(small.resize(fitted_size(*small.size), Image.Resampling.LANCZOS), THUMBNAIL_QUALITY)


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an image as JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
