"""The code -> the generated parts of the documents."""

from lesion_tasks.cli.command_line import lesion, show


@lesion.command(hidden=True)
def docs() -> None:
    """Write the generated parts of the documents anew."""
    from lesion_tasks.cli.documents import write_documents

    show({"changed": write_documents()})
