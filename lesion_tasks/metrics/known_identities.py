"""Rows of a manifest -> of how many images patient and lesion are known, and what that means for figures, in words.

Patients and lesions that nobody names cannot be kept apart: groups are then only the copies of one picture, a model may
be tested on patients from whom it learned, and intervals count one patient as several.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Literal

from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import Count, Published

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

# Where nobody is known, or of less than half of the images.
UNKNOWN_MEANS = (
    "only copies of one picture are kept together, and a model may be tested on patients from whom it learned"
)


class KnownIdentities(Published):
    """How many of some images tell whose they are."""

    n_images: Count
    n_with_patient: Count
    n_with_lesion: Count
    n_with_either: Count

    @property
    def state(self) -> Literal["known", "lesions", "partly", "unknown"]:
        """`known`: every patient. `lesions`: every lesion, no patient. `unknown`: of less than half even the lesion."""
        if self.n_with_patient == self.n_images:
            return "known"
        if self.n_with_lesion == self.n_images and not self.n_with_patient:
            return "lesions"
        return "unknown" if 2 * self.n_with_either < self.n_images else "partly"

    @property
    def words(self) -> str:
        """Of how many images patient and lesion are known, fit to begin or to end a sentence."""
        if self.state == "known":
            return "the patient of every image is known"
        if not self.n_with_either:
            return "patients and lesions are unknown"
        patients = self._share("patient", self.n_with_patient)
        return f"{patients}, {self._share('lesion', self.n_with_lesion)}"

    @property
    def in_short(self) -> str:
        """The same of `unknown` in a few words."""
        return f"patients and lesions are {'mostly ' if self.n_with_either else ''}unknown"

    @property
    def caution(self) -> str | None:
        """What somebody who relies on a figure has to know; None where most images tell whose they are."""
        return f"{self.words}: {UNKNOWN_MEANS}" if self.state == "unknown" else None

    @property
    def note(self) -> str | None:
        """What holds for the images of which not everything is known; None where every patient is."""
        if self.state == "known":
            return None
        if self.state == "lesions":
            return f"{self.words}: another lesion of a patient may be in another subset"
        return self.caution or f"{self.words}: of the others only copies of one picture are kept together"

    @property
    def group(self) -> str:
        """What a group of such images is, in a few words."""
        return {
            "known": "patients or lesions",
            "lesions": "lesions; patients are unknown",
            "partly": "patients or lesions where these are known",
            "unknown": f"copies of one picture; {self.in_short}",
        }[self.state]

    @property
    def intervals(self) -> str:
        """What intervals by group account for: half a sentence."""
        if self.state == "unknown":
            return (
                f"{self.in_short}, so that a group is hardly more than the copies of one picture: where a patient has "
                "several images, the intervals are too narrow"
            )
        if self.state == "known":
            return "images of one patient or lesion form a group, and the intervals account for it"
        if self.state == "lesions":
            return (
                "images of one lesion form a group, and the intervals account for it; patients are unknown, and where "
                "one has several lesions the intervals are a little too narrow"
            )
        return (
            f"images of one patient or lesion form a group where these are known ({self.words}), and the intervals "
            "account for it"
        )

    def _share(self, who: str, n: int) -> str:
        if n == 0:
            return f"{who}s are unknown"
        if n == self.n_images:
            return f"the {who} of every image is known"
        percent = 100 * n / self.n_images
        share = "under 1" if percent < 1 else "over 99" if percent > 99 else f"{percent:.0f}"
        return f"the {who} is known of {n:,} of {plural(self.n_images, 'image')} ({share} %)"

    def __add__(self, other: KnownIdentities) -> KnownIdentities:
        return KnownIdentities(
            **{name: getattr(self, name) + getattr(other, name) for name in KnownIdentities.model_fields}
        )


class Identities(Published):
    """What is known of the images that a training learned from, and of those that it is tested on."""

    learned: KnownIdentities
    test: KnownIdentities

    @property
    def least(self) -> KnownIdentities:
        """Both together; if one side alone is unknown, that side: nobody can be told apart from it."""
        return next(
            (one for one in (self.test, self.learned) if one.state == "unknown"), self.learned + self.test
        )

    @property
    def apart(self) -> str:
        """Whether the people of the test set are in the training set too, where no overlap was found: a sentence."""
        least = self.least
        if least.state == "unknown":
            return (
                f"{least.words[:1].upper()}{least.words[1:]}, so that nobody can tell whether any of these patients is "
                "in the training set too: only copies of one picture were kept together."
            )
        if least.state == "known":
            return "None of these patients or lesions is in the training set."
        if least.state == "lesions":
            return (
                "None of these lesions is in the training set; patients are unknown, and one may be in both."
            )
        return (
            f"No patient or lesion that is known is in the training set as well. Here {self.test.words}; where it "
            f"learned, {self.learned.words}."
        )


def count_known(rows: pd.DataFrame) -> KnownIdentities:
    """Count the rows with a `patient_id` and with a `lesion_id`; a missing column tells nothing."""
    known = rows.reindex(columns=["patient_id", "lesion_id"]).notna()
    return KnownIdentities(
        n_images=len(rows),
        n_with_patient=int(known["patient_id"].sum()),
        n_with_lesion=int(known["lesion_id"].sum()),
        n_with_either=int(known.any(axis=1).sum()),
    )


def together(parts: Iterable[KnownIdentities]) -> KnownIdentities:
    """The sum of several."""
    none = KnownIdentities(n_images=0, n_with_patient=0, n_with_lesion=0, n_with_either=0)
    return reduce(KnownIdentities.__add__, parts, none)


def sentence(words: str) -> str:
    """Words as a sentence of their own."""
    return f"{words[:1].upper()}{words[1:]}."
