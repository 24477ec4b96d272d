"""Whether a run of `promote_model` asks a person, and what a person may override: in the words of forms and pages."""

from collections.abc import Iterable

UNNAMED = "unnamed person"
# The fewest characters of a reason that people type for a rollback, and for a decision about a label or a pair.
MIN_ROLLBACK_REASON, MIN_CORRECTION_REASON = 10, 3
MAX_REASON = 500  # characters of why a refusal is overridden: it stands in the question
AS_SET = "as_set"
APPROVALS = {
    AS_SET: "As the setting LESION_APPROVAL says",
    "always": "Always, before anything is decided",
    "never": "Never: the gates decide",
}


def most_careful(approvals: Iterable[object]) -> str:
    """Of several choices the one by which most people are asked; anything that is none of APPROVALS is AS_SET."""
    known = {one if one in APPROVALS else AS_SET for one in approvals}
    return next((one for one in ("always", AS_SET, "never") if one in known), AS_SET)


# What stood in the way of a training -> whether "Despite the gates" promotes it all the same.
OVERRIDABLE = (
    "a gate that it missed: a floor, the gain, a loss (overall, on a guarded slice, against the best champion so far, "
    "on a cohort), the calibration",
    "a comparison with the champion that could not be made: while it waits, or once it was evaluated anew after that",
)
NEVER_OVERRIDABLE = (
    "something stored that was changed since: its model, predictions, evaluation or row",
    "an evaluation that failed a blocking check, had too few images for one, or lacks one that is made today",
    "images, lesions, patients or copies that by now are known to stand on two sides",
    "classes or labels that are not those of its task any more, and a leading measure that is undefined on val",
    "a smoke run, a training with fields of its own or without an institution, and one whose recipe or split repeats a "
    "published mistake",
    "a person's rejection: it is asked about again once its own evaluation finds something else",
    "a better candidate of the same round",
)


def overrides_in_words() -> str:
    """Both lists as Markdown."""
    lists = {"Can be overridden": OVERRIDABLE, "Never": NEVER_OVERRIDABLE}
    return "\n".join(
        f"{title}:\n\n" + "".join(f"- {one}\n" for one in words) for title, words in lists.items()
    )
