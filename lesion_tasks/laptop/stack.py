"""Wishes -> running services: Postgres, the archive server if one is needed, and Airflow.

The wishes are kept in `<home>/demo.json`, so that a wish that is not given means the same as last time.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, Request, build_opener

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS, own_entries
from lesion_tasks.database.connection import migrate
from lesion_tasks.database.embedded import postgres
from lesion_tasks.database.embedded.ports import free_port
from lesion_tasks.laptop import airflow
from lesion_tasks.laptop.airflow_api import AirflowApi
from lesion_tasks.laptop.processes import Service, ensure_started, leader, log_path, stop, wait_for
from lesion_tasks.settings import PUBLIC_ARCHIVE_URL, Settings

SYNTHETIC = "synthetic"
SYNTHETIC_IMAGES = 1_500
PUBLIC = "isic"
NAMED_WEIGHTS = ("imagenet", "none")
ARCHIVE_SERVER = "archive-server"
N_KEPT_FILES = 2_000  # of the archive server, some 25 kB each
ARCHIVE_TIMEOUT_S = 120.0  # a large folder is listed first


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a demo should run on."""

    archive: str = SYNTHETIC  # or "isic", an address, a download folder
    images: int | None = None  # the size of the synthetic archive, or how many to read of another one
    variants: str = ""  # names separated by commas; empty: the catalogue's default
    weights: str = ""  # a folder or file of pretrained weights, or "none"; empty: what the settings say

    def __post_init__(self) -> None:
        unknown = sorted(set(filter(None, self.variants.split(","))) - set(VARIANTS))
        if unknown:
            own_entries.refuse_broken()
            raise UnusableInputError(
                f"VARIANTS: unknown {', '.join(unknown)}; expected some of {', '.join(sorted(VARIANTS))}"
            )
        if self.weights and self.weights not in NAMED_WEIGHTS and not Path(self.weights).exists():
            raise UnusableInputError(
                f"WEIGHTS {self.weights}: there is no such file or folder; expected pretrained weights"
            )
        if self.images is not None and self.images < 1:
            raise UnusableInputError(f"IMAGES={self.images}: expected at least 1")
        if self.is_folder and not Path(self.archive).is_dir():
            raise UnusableInputError(
                f"ARCHIVE {self.archive}: there is no such folder; expected a download folder, an address that "
                f"begins with http, {PUBLIC} or nothing"
            )

    @property
    def is_served_here(self) -> bool:
        """Whether a server of ours stands in for the archive."""
        return self.archive != PUBLIC and not re.match(r"https?://", self.archive)

    @property
    def is_folder(self) -> bool:
        """Whether the archive is a folder on this machine."""
        return self.is_served_here and self.archive != SYNTHETIC

    @property
    def described(self) -> str:
        """The archive in words."""
        if self.archive == SYNTHETIC:
            return (
                f"the synthetic archive of drawn lesions, {self.images or SYNTHETIC_IMAGES:,} "
                "records in all: nine in ten are dermoscopic, and these alone are ingested unless LESION_QUERY is set"
            )
        return "the ISIC Archive itself" if self.archive == PUBLIC else self.archive


def remembered(home: Path) -> Wishes:
    """Return the wishes of the last run, or the defaults."""
    try:
        return Wishes(**json.loads((home / "demo.json").read_text()))
    except FileNotFoundError:
        return Wishes()


def bring_up(
    settings: Settings, wishes: Wishes, *, port: int | None, say: Callable[[str], None]
) -> AirflowApi:
    """Start services that do not run yet, restart those with other settings; return Airflow's API."""
    home = settings.home
    port = airflow.choose_port(home, port)  # before anything is started that would have to be stopped again
    server_url = postgres.ensure_running(home)
    say("Postgres is running")
    database = settings.database_url or f"{server_url}/lesions"
    migrate(database)
    archive_url = _archive_url(home, wishes, say)
    (home / "demo.json").write_text(json.dumps(asdict(wishes)))
    chosen = settings.model_copy(
        update={
            "database_url": database,
            "archive_url": archive_url,
            # The synthetic archive is made in this size; of any other archive, this many records are read.
            "max_records": None if wishes.archive == SYNTHETIC else wishes.images,
            "variants": tuple(filter(None, wishes.variants.split(","))) or settings.variants,
            "weights": wishes.weights or settings.weights,
        }
    )
    return airflow.start(home, chosen.as_environment(), port=port, say=say)


def take_down(home: Path) -> list[str]:
    """Stop everything that `bring_up` started under `home`, and nothing else; return what ran."""
    stopped = airflow.stop_all(home) + stop(_run_folder(home))
    return [*stopped, "postgres"] if postgres.stop(home) else stopped


def _run_folder(home: Path) -> Path:
    return home.resolve() / "run"


def _archive_url(home: Path, wishes: Wishes, say: Callable[[str], None]) -> str:
    """Return the archive's address, starting a server for it if it has none."""
    if not wishes.is_served_here:
        stop(_run_folder(home), [ARCHIVE_SERVER])
        return PUBLIC_ARCHIVE_URL if wishes.archive == PUBLIC else wishes.archive
    folder = _run_folder(home)
    folder.mkdir(parents=True, exist_ok=True)
    if wishes.archive == SYNTHETIC:
        # The source keeps its first size, and growth is part of the state, because the name is the identity.
        source = f"{SYNTHETIC}:{_first_size(home, wishes)}"
        state = home.resolve() / "archive-state.json"
    else:
        source = str(Path(wishes.archive).resolve())
        # A state belongs to one folder, and is refused for any other.
        state = home.resolve() / f"archive-state-{hashlib.sha256(source.encode()).hexdigest()[:8]}.json"
    # Ingestion remembers the archive's address, so it is kept as long as possible.
    is_running = leader(folder, ARCHIVE_SERVER) is not None
    port = int((folder / "port").read_text()) if is_running else free_port(folder / "port")
    service = Service(
        name=ARCHIVE_SERVER,
        command=(
            *(sys.executable, "-m", "archive_server", "--port", str(port)),
            *("--source", source, "--state", str(state)),
            # While Airflow starts a core is idle.
            *("--draw-ahead", "--keep-files", str(N_KEPT_FILES)),
        ),
        settings={"PYTHONPATH": str(airflow.CHECKOUT), "PYTHONUNBUFFERED": "1"},
    )
    if ensure_started(folder, service):
        say(f"starting an archive server on {source}")
    log = log_path(folder, ARCHIVE_SERVER)
    wait_for(folder, ARCHIVE_SERVER, lambda: _address(log) != "", ARCHIVE_TIMEOUT_S)
    url = _address(log)
    if wishes.archive == SYNTHETIC and wishes.images is not None:
        _grow(url, wishes.images, say)
    return url


def _address(log: Path) -> str:
    """Return the address that the server printed once it was ready, or an empty string."""
    found = re.search(r"^serving .* at (\S+)", log.read_text(errors="replace"), flags=re.MULTILINE)
    return found[1] if found else ""


def _first_size(home: Path, wishes: Wishes) -> int:
    path = home / "archive-size"
    if not path.exists():
        path.write_text(str(wishes.images or SYNTHETIC_IMAGES))
    return int(path.read_text())


def _grow(url: str, wanted: int, say: Callable[[str], None]) -> None:
    parts = urlsplit(url)
    admin = urlunsplit((parts.scheme, parts.netloc, "/admin/", "", ""))
    opener = build_opener(ProxyHandler({}))
    with opener.open(admin + "state", timeout=60) as answer:
        present = int(json.load(answer)["images"])
    if wanted > present:
        with opener.open(Request(f"{admin}grow?images={wanted - present}", method="POST"), timeout=120):  # noqa: S310
            say(f"growing the synthetic archive from {present:,} to {wanted:,} images")
    elif wanted < present:
        say(
            f"the synthetic archive already holds {present:,} images; it does not shrink (make clean removes it)"
        )
