"""What a run asks a person -> the question as a page shows it: what it is about, and its body as HTML."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, select

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog.approvals import ASKING, PAGES
from lesion_tasks.curation import correction_requests, corrections
from lesion_tasks.database.schema import Training
from lesion_tasks.evaluation.candidacy import TaskNow
from lesion_tasks.pages.activity import ASKING as IS_ASKED
from lesion_tasks.pages.activity import AT_WORK, OvertakenBy, Run, TaskOfRun
from lesion_tasks.pages.rendering import markdown_as_html
from lesion_tasks.promotion import questions
from lesion_tasks.workspace import Workspace

log = logging.getLogger(__name__)


class ShownQuestion(BaseModel, frozen=True):
    """A question that Airflow keeps open, and what only the product knows of it."""

    asked_about: str  # the training, or the images
    title: str  # of the training's recipe, with what was changed for this one; empty: it is about images
    pictures: list[str]  # the images that it is about, to be shown beside its words
    is_open: (
        bool  # if not, something else was decided or is to be: the question ends by itself, within minutes
    )
    can_promote: bool  # whether an approval does what is asked for
    body: str  # HTML, without markup of the source's own


def read_question(
    workspace: Workspace, dag_id: str, returned: Any, map_index: int, *, root: str
) -> ShownQuestion:
    """The question at a place among those that the task of ASKING returned.

    Raises `UnusableInputError` if there is none. `root` is the address of the pages: links in the body lead there.
    """
    asked = returned if isinstance(returned, list) else []
    if not 0 <= map_index < len(asked):
        raise UnusableInputError(f"question {map_index}: this run asks {len(asked)}")
    question = _question(dag_id, asked[map_index])
    with workspace.engine.connect() as connection:
        is_open = _overtaken_by(connection, question) is None
        titles = _titles(connection, [question])
    return _shown(question, titles, is_open=is_open, root=root)


def _shown(
    question: questions.Question | correction_requests.CorrectionQuestion,
    titles: Mapping[str, str],
    *,
    is_open: bool,
    root: str,
) -> ShownQuestion:
    pictures = (
        []
        if isinstance(question, questions.Question)
        else correction_requests.Request(**question.request).isic_ids
    )
    about = question.asked_about if isinstance(question, questions.Question) else " ".join(pictures)
    body = question.body.replace(f"]({PAGES}reports/", f"]({root}read/").replace(f"]({PAGES}", f"]({root}")
    return ShownQuestion(
        asked_about=about,
        title=titles.get(about, ""),
        pictures=pictures,
        is_open=is_open,
        can_promote=not isinstance(question, questions.Question) or question.can_promote,
        body=markdown_as_html(body),
    )


def _titles(connection: Connection, asked: Sequence[Any]) -> dict[str, str]:
    """The titles of the recipes of the trainings that some questions are about."""
    names = [one.asked_about for one in asked if isinstance(one, questions.Question)]
    if not names:
        return {}
    rows = connection.execute(
        select(Training.training_id, Training.recipe).where(Training.training_id.in_(names))
    )
    return {row.training_id: str(row.recipe.get("title", "")) for row in rows}


@dataclass(frozen=True, kw_only=True)
class AskedNow:
    """An open question as a page has it from the beginning."""

    run: Run
    place: int
    subject: str
    known: ShownQuestion


def read_asked_now(
    connection: Connection, at_work: Sequence[Run], overtaken_by: OvertakenBy, *, root: str
) -> list[AskedNow]:
    """The questions of runs at work that nothing has overtaken, the oldest run first; no query for each."""
    found = []
    for run in at_work:
        for task in run.tasks:
            if AT_WORK.get(task.state or "") != IS_ASKED or task.answered_by is not None:
                continue
            if run.dag_id not in ASKING or not 0 <= task.map_index < len(run.questions):
                continue
            try:
                question = _question(run.dag_id, run.questions[task.map_index])
            except TypeError as error:
                log.warning("run %s asks what another release asked: %s", run.run_id, error)
                continue
            if overtaken_by(run, task) is None:
                found.append((run, task.map_index, question))
    titles = _titles(connection, [question for _, _, question in found])
    return [
        AskedNow(
            run=run,
            place=place,
            subject=question.subject,
            known=_shown(question, titles, is_open=True, root=root),
        )
        for run, place, question in found
    ]


def find_overtaken(connection: Connection, at_work: Sequence[Run], now: Mapping[str, TaskNow]) -> OvertakenBy:
    """What says of the question of a task what has overtaken it; None: nothing, or its run no more says what it asks.

    `now`: the state of each task that was read already. Of corrections it says only whether their request has ended:
    what else may have overtaken one takes several queries, and stands with the question itself.
    """
    correcting = [run.run_id for run in at_work if run.dag_id == "correct_data"]
    ended = corrections.find_requests(connection, correcting) if correcting else {}

    def overtaken_by(run: Run, task: TaskOfRun) -> str | None:
        if run.dag_id == "correct_data":
            known = ended.get(run.run_id)
            return None if known is None else correction_requests.how_ended(known)
        if run.dag_id not in ASKING or not 0 <= task.map_index < len(run.questions):
            return None
        question = questions.Question(**run.questions[task.map_index])
        return questions.overtaken_by(connection, question, now.get(question.task_name))

    return overtaken_by


def _question(
    dag_id: str, asked: dict[str, Any]
) -> questions.Question | correction_requests.CorrectionQuestion:
    if dag_id == "correct_data":
        return correction_requests.CorrectionQuestion(**asked)
    return questions.Question(**asked)


def _overtaken_by(
    connection: Connection, question: questions.Question | correction_requests.CorrectionQuestion
) -> str | None:
    if isinstance(question, questions.Question):
        return questions.overtaken_by(connection, question)
    return correction_requests.overtaken_by(connection, correction_requests.Request(**question.request))
