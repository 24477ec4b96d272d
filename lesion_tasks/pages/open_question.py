"""What a run of `promote_model` asks about a task -> the question as a page shows it: candidate, and body as HTML."""

from typing import Any

from pydantic import BaseModel

from lesion_tasks import UnusableInputError
from lesion_tasks.pages.rendering import markdown_as_html
from lesion_tasks.promotion.questions import PAGES, Question, is_open
from lesion_tasks.workspace import Workspace

ASKING = ("promote_model", "compare")  # the DAG and the task that return the questions


class OpenQuestion(BaseModel, frozen=True):
    """A question that Airflow keeps open, and what only the product knows of it."""

    candidate: str  # the training that it is about
    is_open: bool  # if not, something else was decided or is to be: the question ends by itself, within ten minutes
    body: str  # HTML, without markup of the source's own


def read_question(workspace: Workspace, returned: Any, map_index: int, *, root: str) -> OpenQuestion:
    """The question at a place among those that the task of ASKING returned.

    Raises `UnusableInputError` if there is none. `root` is the address of the pages: links in the body lead there.
    """
    asked = returned if isinstance(returned, list) else []
    if not 0 <= map_index < len(asked):
        raise UnusableInputError(f"question {map_index}: this run asks {len(asked)}")
    question = Question(**asked[map_index])
    with workspace.engine.connect() as connection:
        is_still_open = is_open(connection, question)
    return OpenQuestion(
        candidate=question.asked_about,
        is_open=is_still_open,
        body=markdown_as_html(question.body.replace(f"]({PAGES}reports/", f"]({root}read/")),
    )
