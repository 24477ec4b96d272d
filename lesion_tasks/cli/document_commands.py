"""The code -> the generated parts of the documents."""

from lesion_tasks.cli.command_line import lesion, show


@lesion.command(hidden=True)
def docs() -> None:
    """Rewrite the generated parts of the documents."""
    from lesion_tasks.cli.documents import write_documents

    show({"changed": write_documents()})
