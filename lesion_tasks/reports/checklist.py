"""A bundle -> the checklist: items that the run answers from the bundle, and items that need a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lesion_tasks.reports import answers
from lesion_tasks.reports.bundle import Bundle
from lesion_tasks.reports.checklist_items import GUIDELINES, ITEMS
from lesion_tasks.reports.markdown import escape, table
from lesion_tasks.reports.words import moment

ANSWERED, IN_PART, PERSON = "answered by the run", "in part; a person completes it", "needs a person"

_NO_ANSWER, _IN_PART = "-", " in part"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that guidelines ask. `answer` returns None if a bundle does not hold it."""

    section: str
    asks: str
    guidelines: tuple[str, ...]
    answer: Callable[[Bundle], str | None] | None
    is_partial: bool


@dataclass(frozen=True, kw_only=True)
class FilledItem:
    """An item with its status and the run's answer, if it has one."""

    section: str
    asks: str
    guidelines: tuple[str, ...]
    status: str
    answer: str | None


@dataclass(frozen=True, kw_only=True)
class Total:
    """The number of items of one guideline, in all and by status."""

    guideline: str
    n: int
    n_answered: int
    n_in_part: int
    n_person: int


def checklist() -> list[Item]:
    """The table of `checklist_items` with its answers looked up; AttributeError for one that does not exist."""
    items, section = [], ""
    for line in ITEMS.strip().splitlines():
        if line.startswith("#"):
            section = line.removeprefix("#").strip()
        else:
            items.append(_item(section, *(cell.strip() for cell in line.split("|"))))
    return items


def _item(section: str, letters: str, answer: str, asks: str) -> Item:
    name = answer.removesuffix(_IN_PART)
    return Item(
        section=section,
        asks=asks,
        guidelines=tuple(GUIDELINES[letter] for letter in letters),
        answer=None if name == _NO_ANSWER else getattr(answers, name),
        is_partial=answer.endswith(_IN_PART),
    )


def fill_checklist(bundle: Bundle) -> list[FilledItem]:
    """Every item with its status and the run's answer, if it has one."""
    filled = []
    for item in checklist():
        answer = item.answer(bundle) if item.answer else None
        filled.append(
            FilledItem(
                section=item.section,
                asks=item.asks,
                guidelines=item.guidelines,
                status=PERSON if answer is None else IN_PART if item.is_partial else ANSWERED,
                answer=answer,
            )
        )
    return filled


def totals(items: Sequence[FilledItem]) -> list[Total]:
    """For each guideline: how many items, and how many of each status."""
    rows = []
    for guideline in GUIDELINES.values():
        statuses = [item.status for item in items if guideline in item.guidelines]
        rows.append(
            Total(
                guideline=guideline,
                n=len(statuses),
                n_answered=statuses.count(ANSWERED),
                n_in_part=statuses.count(IN_PART),
                n_person=statuses.count(PERSON),
            )
        )
    return rows


def by_section(items: Sequence[FilledItem]) -> list[tuple[str, list[FilledItem]]]:
    """Items under the title of their section, in the order of the table."""
    return [
        (section, [item for item in items if item.section == section])
        for section in dict.fromkeys(item.section for item in items)
    ]


def checklist_json(bundle: Bundle) -> bytes:
    items = fill_checklist(bundle)
    document = {
        "evaluation_id": bundle.evaluation_id,
        "totals": [asdict(total) for total in totals(items)],
        "items": [asdict(item) for item in items],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def checklist_markdown(bundle: Bundle) -> str:
    items = fill_checklist(bundle)
    lines = [
        "# Reporting checklist",
        "",
        f"Training {escape(bundle.training.training_id)}, evaluated {escape(moment(bundle.evaluated_at))}. "
        f"Items of {', '.join(GUIDELINES.values())} in our words; before a submission, the guideline's own form "
        "decides.",
        "",
        table(
            ("Guideline", "Items", "Answered by the run", "In part", "Needs a person"),
            [
                (total.guideline, total.n, total.n_answered, total.n_in_part, total.n_person)
                for total in totals(items)
            ],
        ),
    ]
    for title, entries in by_section(items):
        rows = [(item.asks, ", ".join(item.guidelines), item.status, item.answer or "") for item in entries]
        lines += ["", f"## {title}", "", table(("Item", "Asked by", "Status", "Answer"), rows)]
    return "\n".join(lines) + "\n"
