"""A stored model and pictures -> what it says of them, and the model in other formats."""

from collections.abc import Sequence
from pathlib import Path

import click

from lesion_tasks import UnusableInputError
from lesion_tasks.cli.command_line import Choice, lesion, open_workspace, show


@lesion.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...|SOURCE")
@click.option("--task", default="malignancy", show_default=True, help="Any with a champion in the bucket.")
@click.option("--training", "training_id", help="Another model than the champion.")
@click.option("--age", "age_years", type=float, help="Age in years, where the model asks for it.")
@click.option("--sex", type=Choice(["female", "male"]), help="Sex, where the model asks for it.")
@click.option("--size", "size_mm", type=float, help="Longest diameter in mm, where the model asks for it.")
@click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV with a row for each picture of a source: image, and age_years, sex, size_mm.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the tables and the page of a source there.",
)
def predict(
    images: Sequence[str],
    task: str,
    training_id: str | None,
    age_years: float | None,
    sex: str | None,
    size_mm: float | None,
    table: Path | None,
    out: Path | None,
) -> None:
    """Pictures -> the champion's probabilities. For research, not for diagnosis.

    Of a few pictures, they are printed. A SOURCE is a folder, bucket:PREFIX, s3://BUCKET/PREFIX or cohort:NAME: its
    pictures are predicted in batches into a table and a page in the bucket, and a killed run goes on where it was.
    """
    from lesion_tasks.serving.picture_source import SOURCE_IN_WORDS, is_source

    is_male = None if sex is None else float(sex == "male")
    given = {"age_years": age_years, "is_male": is_male, "size_mm": size_mm}
    known = {name: value for name, value in given.items() if value is not None}
    if len(images) == 1 and is_source(images[0]):
        from lesion_tasks.serving.predict_job import predict_source

        result = predict_source(
            open_workspace(),
            images[0],
            task=task,
            training_id=training_id,
            table=table,
            metadata=known,
            out=out,
        )
        show(result.model_dump())
        return
    if table is not None or out is not None:
        raise UnusableInputError(f"--table and --out go with one source, expected {SOURCE_IN_WORDS}")
    from lesion_tasks.serving.serve import predict_images

    notes: list[str] = []
    said = predict_images(
        open_workspace(), images, task=task, training_id=training_id, metadata=known, notes=notes
    )
    show([one.as_json() | ({"notes": notes} if notes else {}) for one in said])


@lesion.command()
@click.option("--task", default="malignancy", show_default=True, help="Any with a champion in the bucket.")
@click.option("--training", "training_id", help="Another model than the champion.")
@click.option(
    "--format", "format_name", default="onnx", show_default=True, help="onnx or litert; each needs its extra."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Copy it to this folder too.")
def export(task: str, training_id: str | None, format_name: str, out: Path | None) -> None:
    """The champion -> the same model for ONNX Runtime or LiteRT, held against the stored one on test pictures."""
    from lesion_tasks.serving.export_model import export_model
    from lesion_tasks.serving.served_model import find_model

    workspace = open_workspace()
    file = find_model(workspace, task, training_id)
    show(export_model(workspace.bucket, file, format_name, out).model_dump(exclude={"training"}))
