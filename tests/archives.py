"""A running local archive that tests can change, and a download folder to serve."""

import csv
import json
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen  # to our own server

import numpy as np
from aiohttp import web
from PIL import Image
from sqlalchemy import text

from archive_server.holdings import Holdings
from archive_server.hosting import running
from archive_server.server import API, build_app
from archive_server.state import load_state
from lesion_tasks.archive.client import Retry
from lesion_tasks.workspace import open_workspace

FAST = Retry(n_attempts=6, first_delay_s=0.01, max_delay_s=0.05, read_timeout_s=5)


def tampering(tamper):
    @web.middleware
    async def change(request, handler):
        response = await handler(request)
        if not request.path.startswith(API) or response.content_type != "application/json":
            return response
        changed = tamper(request, json.loads(response.body))
        if isinstance(changed, web.StreamResponse):
            return changed
        return web.json_response(changed, status=response.status)

    return change


class Archive:
    """A running local archive."""

    def __init__(self, origin, catalogue):
        self.origin = origin
        self.url = origin + API
        self.catalogue = catalogue

    def admin(self, what, body=None, **parameters):
        words = "&".join(f"{name}={value}" for name, value in parameters.items())
        data = json.dumps(body).encode() if body is not None else b""
        request = Request(f"{self.origin}/admin/{what}?{words}", method="POST", data=data or None)  # noqa: S310
        if body is not None:
            request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    def ids(self):
        return {self.catalogue.visible_id(int(position)) for position in self.catalogue.visible}


@contextmanager
def serving(source, monkeypatch, *, tamper=None, **options):
    """Serve a source; `tamper(request, body)` may change or replace the JSON of each API answer."""
    catalogue = Holdings(source, load_state(None, source.name))
    app = build_app(catalogue, **options)
    if tamper is not None:
        app.middlewares.insert(0, tampering(tamper))
    with running(app) as origin:
        archive = Archive(origin, catalogue)
        monkeypatch.setenv("LESION_ARCHIVE_URL", archive.url)
        monkeypatch.setenv("LESION_QUERY", "")
        yield archive


def rows(statement, **values):
    with open_workspace().session() as session:
        return session.execute(text(statement), values).all()


def scalar(statement, **values):
    with open_workspace().session() as session:
        return session.scalar(text(statement), values)


def execute(statement, **values):
    with open_workspace().session() as session:
        session.execute(text(statement), values)


def listed_ids():
    return {row.isic_id for row in rows("SELECT isic_id FROM scope_record WHERE missing_since IS NULL")}


def write_folder(folder: Path, n_images: int, *, seed: int = 0, width_px: int = 80) -> list[str]:
    """Write a snapshot-like download folder and return its ids."""
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(seed)
    isic_ids = [f"ISIC_{number:07d}" for number in sorted(random.choice(10**7, n_images, replace=False))]
    with (folder / "metadata.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["isic_id", "attribution", "copyright_license", "image_type", "diagnosis_1", "mel_thick_mm"]
        )
        for isic_id in isic_ids:
            writer.writerow([isic_id, "A hospital", "CC-0", "dermoscopic", "Benign", "0.50"])
            write_picture(folder / "images" / f"{isic_id}.jpg", random, width_px)
    return isic_ids


def write_picture(path: Path, random: np.random.Generator, width_px: int = 80) -> None:
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    coarse.resize((width_px, width_px * 3 // 4), Image.Resampling.BICUBIC).save(path, quality=90)
