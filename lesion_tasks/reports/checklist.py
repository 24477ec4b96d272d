"""A bundle -> the checklist: items that the run answers from the bundle, and items that need a person."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lesion_tasks.reports.checklist_items import GUIDELINES, ITEMS
from lesion_tasks.reports.markdown import escape, table
from lesion_tasks.reports.words import moment

ANSWERED, IN_PART, PERSON = "answered by the run", "in part; a person completes it", "needs a person"


def fill_checklist(bundle: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every item with its status and, where the run has one, its answer."""
    filled = []
    for item in ITEMS:
        answer = item.answer(bundle) if item.answer else None
        status = PERSON if answer is None else IN_PART if item.is_partial else ANSWERED
        filled.append(
            {
                "section": item.section,
                "asks": item.asks,
                "guidelines": list(item.guidelines),
                "status": status,
                "answer": answer,
            }
        )
    return filled


def totals(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each guideline: how many items, and how many of each status."""
    rows = []
    for guideline in GUIDELINES:
        statuses = [item["status"] for item in items if guideline in item["guidelines"]]
        rows.append(
            {
                "guideline": guideline,
                "n": len(statuses),
                "answered": statuses.count(ANSWERED),
                "in_part": statuses.count(IN_PART),
                "person": statuses.count(PERSON),
            }
        )
    return rows


def by_section(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items under the title of their section, in the order of `ITEMS`."""
    return [
        {"title": section, "entries": [item for item in items if item["section"] == section]}
        for section in dict.fromkeys(item["section"] for item in items)
    ]


def checklist_json(bundle: Mapping[str, Any]) -> bytes:
    items = fill_checklist(bundle)
    document = {"evaluation_id": bundle["evaluation_id"], "totals": totals(items), "items": items}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def checklist_markdown(bundle: Mapping[str, Any]) -> str:
    items = fill_checklist(bundle)
    lines = [
        "# Reporting checklist",
        "",
        f"Training {escape(bundle['training']['training_id'])}, evaluated {escape(moment(bundle['evaluated_at']))}. "
        f"Items of {', '.join(GUIDELINES)} in our words; before a submission, the guideline's own form decides.",
        "",
        table(
            ("Guideline", "Items", "Answered by the run", "In part", "Needs a person"),
            [
                (row["guideline"], row["n"], row["answered"], row["in_part"], row["person"])
                for row in totals(items)
            ],
        ),
    ]
    for section in by_section(items):
        rows = [
            (item["asks"], ", ".join(item["guidelines"]), item["status"], item["answer"] or "")
            for item in section["entries"]
        ]
        lines += ["", f"## {section['title']}", "", table(("Item", "Asked by", "Status", "Answer"), rows)]
    return "\n".join(lines) + "\n"
