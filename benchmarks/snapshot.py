"""Reading the archive's snapshot costs memory that does not grow with it, and its zip file is never unpacked.

    python -m benchmarks.snapshot

Made-up snapshots of two sizes. For each, a process of its own reads every record, asks for every file and reads every
member; a peer opens the same zip file with `zipfile`.
"""

import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import click

MEMBER = bytes(range(256))


def make(folder: Path, n_images: int) -> None:
    """Write a snapshot of `n_images` rows and small files."""
    import pyarrow
    import pyarrow.parquet as parquet

    ids = [f"ISIC_{number:07d}" for number in range(n_images)]
    columns = {
        "isic_id": ids,
        "attribution": ["A hospital"] * n_images,
        "copyright_license": ["CC-BY"] * n_images,
        "age_approx": [5 * (number % 18) for number in range(n_images)],
        "sex": [("female", "male", None)[number % 3] for number in range(n_images)],
        "image_type": ["dermoscopic"] * n_images,
        "diagnosis_1": [("Benign", "Malignant")[number % 2] for number in range(n_images)],
        "clin_size_long_diam_mm": [f"{number % 90 / 10:.2f}" for number in range(n_images)],
        "patient_id": [f"IP_{number // 5:07d}" for number in range(n_images)],
        "lesion_id": [f"IL_{number // 2:07d}" for number in range(n_images)],
    }
    # One row group, the worst case for a reader.
    table = pyarrow.table(columns).replace_schema_metadata(
        {"snapshot_timestamp": "2026-01-01T00:00:00+00:00"}
    )
    parquet.write_table(table, folder / "ISIC_metadata.parquet", row_group_size=n_images)
    with zipfile.ZipFile(folder / "ISIC_images.zip", "w") as file:
        for isic_id in ids:
            file.writestr(f"images/{isic_id}.jpg", MEMBER)


def read(folder: Path) -> dict[str, float]:
    """Read everything once; return records, seconds and the growth of this process in MB."""
    import pyarrow.parquet  # noqa: F401 - loaded before the first look at memory

    from lesion_tasks.archive.snapshot import Snapshot

    before_mb = peak_mb()
    started = time.monotonic()
    snapshot = Snapshot(folder)
    n_records = 0
    for record in snapshot.records():
        entry = snapshot.file_of(record["isic_id"])
        assert entry is not None
        assert snapshot.read_file(entry["url"], max_bytes=1_000) == MEMBER
        n_records += 1
    return {"n": n_records, "s": time.monotonic() - started, "mb": peak_mb() - before_mb}


def read_by_zipfile(folder: Path) -> dict[str, float]:
    """The same files by the standard library, without the records."""
    before_mb = peak_mb()
    started = time.monotonic()
    with zipfile.ZipFile(folder / "ISIC_images.zip") as file:
        names = file.namelist()
        for name in names:
            assert file.read(name) == MEMBER
    return {"n": len(names), "s": time.monotonic() - started, "mb": peak_mb() - before_mb}


def peak_mb() -> float:
    """Return the most memory this process has held."""
    # Not getrusage: its figure begins with that of the process this one was forked from.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def in_own_process(function: str, folder: Path) -> dict[str, float]:
    """Run one of the functions above in a process of its own."""
    code = (
        "import json, sys; from pathlib import Path; import benchmarks.snapshot as b; "
        f"print(json.dumps(b.{function}(Path(sys.argv[1]))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


@click.command()
@click.option("--sizes", default="5000,500000", show_default=True)
def main(sizes: str) -> None:
    """Print records per second and how much memory each size took."""
    for size in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), size)
            for function in ("read", "read_by_zipfile"):
                found = in_own_process(function, Path(name))
                print(
                    f"{size:>8,} {function}: {found['n'] / found['s']:,.0f}/s, {found['mb']:.0f} MB more than before"
                )


if __name__ == "__main__":
    main()
