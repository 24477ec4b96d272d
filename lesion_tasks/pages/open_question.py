"""What a run asks a person -> the question as a page shows it: what it is about, and its body as HTML."""

from typing import Any

from pydantic import BaseModel

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.approvals import PAGES
from lesion_tasks.curation import correction_requests
from lesion_tasks.pages.rendering import markdown_as_html
from lesion_tasks.promotion import questions
from lesion_tasks.workspace import Workspace

ASKING = {"promote_model": "compare", "correct_data": "propose"}  # DAG -> the task that returns its questions


class OpenQuestion(BaseModel, frozen=True):
    """A question that Airflow keeps open, and what only the product knows of it."""

    asked_about: str  # the training, or the images
    pictures: list[str]  # the images that it is about, to be shown beside its words
    is_open: bool  # if not, something else was decided or is to be: the question ends by itself, within ten minutes
    body: str  # HTML, without markup of the source's own


def read_question(
    workspace: Workspace, dag_id: str, returned: Any, map_index: int, *, root: str
) -> OpenQuestion:
    """The question at a place among those that the task of ASKING returned.

    Raises `UnusableInputError` if there is none. `root` is the address of the pages: links in the body lead there.
    """
    asked = returned if isinstance(returned, list) else []
    if not 0 <= map_index < len(asked):
        raise UnusableInputError(f"question {map_index}: this run asks {len(asked)}")
    found = (_of_correction if dag_id == "correct_data" else _of_candidate)(workspace, asked[map_index])
    body = found.body.replace(f"]({PAGES}reports/", f"]({root}read/").replace(f"]({PAGES}", f"]({root}")
    return found.model_copy(update={"body": markdown_as_html(body)})


def _of_candidate(workspace: Workspace, asked: dict[str, Any]) -> OpenQuestion:
    question = questions.Question(**asked)
    with workspace.engine.connect() as connection:
        is_open = questions.is_open(connection, question)
    return OpenQuestion(asked_about=question.asked_about, pictures=[], is_open=is_open, body=question.body)


def _of_correction(workspace: Workspace, asked: dict[str, Any]) -> OpenQuestion:
    question = correction_requests.CorrectionQuestion(**asked)
    request = correction_requests.Request(**question.request)
    with workspace.engine.connect() as connection:
        is_open = correction_requests.is_open(connection, request)
    return OpenQuestion(
        asked_about=" ".join(request.isic_ids),
        pictures=request.isic_ids,
        is_open=is_open,
        body=question.body,
    )
