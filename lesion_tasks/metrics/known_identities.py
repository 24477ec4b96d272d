"""Rows of a manifest -> for how many images patient and lesion are known, and what that means for figures, in words.

Patients and lesions that nobody names cannot be kept apart: groups are then only the copies of one picture, a model may
be tested on patients from whom it learned, and intervals count one patient as several.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Literal

from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.document_schema import Count, Published

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

UNKNOWN_MEANS = "a model may be tested on patients from whom it learned"
ONLY_COPIES = "only copies of one picture are kept together"


class KnownIdentities(Published):
    """How many of some images tell whose they are."""

    n_images: Count
    n_with_patient: Count
    n_with_lesion: Count
    n_with_either: Count

    @property
    def state(self) -> Literal["known", "partly", "unknown"]:
        """`known`: every patient. `unknown`: not even the lesion of half of the images. `partly`: between them."""
        if self.n_with_patient == self.n_images:
            return "known"
        return "unknown" if 2 * self.n_with_either < self.n_images else "partly"

    @property
    def words(self) -> str:
        """For how many images patient and lesion are known, ready to begin or to end a sentence."""
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
        if self.state != "unknown":
            return None
        return f"{self.words}: {self.kept_together}, and {UNKNOWN_MEANS}"

    @property
    def note(self) -> str | None:
        """What holds for the images of which not everything is known; None where every patient is."""
        if self.state == "known":
            return None
        if self.caution is not None:
            return self.caution
        of_others = f"{self.kept_together}, and " if self.n_with_neither else ""
        return f"{self.words}: {of_others}another lesion of a patient may be in another subset"

    @property
    def n_with_neither(self) -> int:
        """Images for which neither patient nor lesion is known."""
        return self.n_images - self.n_with_either

    @property
    def kept_together(self) -> str:
        """What is kept together of the images for which neither is known."""
        if not self.n_with_either:
            return ONLY_COPIES
        return f"of the {plural(self.n_with_neither, 'image')} for which neither is known, {ONLY_COPIES}"

    @property
    def holder(self) -> str:
        """Who is known to have several images."""
        if self.state == "known" or (self.n_with_patient and self.n_with_lesion):
            return "patient or lesion"
        return "patient" if self.n_with_patient else "lesion"

    @property
    def group(self) -> str:
        """What a group of such images is, in a few words."""
        if self.state == "unknown":
            return f"{'mostly ' if self.n_with_either else ''}copies of one picture; {self.in_short}"
        who = self.holder.replace(" or ", "s or ") + "s"
        if self.n_with_neither:
            who += " where these are known"
        return who if self.n_with_patient else f"{who}; patients are unknown"

    @property
    def intervals(self) -> str:
        """What intervals by group account for: half a sentence."""
        if self.state == "unknown":
            return (
                f"{self.in_short}, so that {'most groups are' if self.n_with_either else 'a group is'} hardly more "
                "than the copies of one picture: where a patient has several images, the intervals are too narrow"
            )
        forms = f"images of one {self.holder} form a group"
        if self.state == "known":
            return f"{forms}, and the intervals account for it"
        if self.n_with_either == self.n_with_lesion == self.n_images and not self.n_with_patient:
            known, patients = "", "patients are unknown"
        else:
            known, patients = f" where these are known ({self.words})", "not every patient is known"
        several = "several images that do not say so" if self.n_with_neither else "several lesions"
        return (
            f"{forms}{known}, and the intervals account for it; {patients}, and where one has {several} the intervals "
            "are a little too narrow"
        )

    def _share(self, who: str, n: int) -> str:
        if n == 0:
            return f"{who}s are unknown"
        if n == self.n_images:
            return f"the {who} of every image is known"
        percent = 100 * n / self.n_images
        share = "under 1" if percent < 1 else "over 99" if percent > 99 else f"{percent:.0f}"
        return f"the {who} is known for {n:,} of {plural(self.n_images, 'image')} ({share} %)"

    def __add__(self, other: KnownIdentities) -> KnownIdentities:
        return KnownIdentities(
            **{name: getattr(self, name) + getattr(other, name) for name in KnownIdentities.model_fields}
        )


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """The subsets of most of whose images nobody knows whose they are, and what is known of these images."""

    known: KnownIdentities
    subsets: tuple[str, ...]  # empty if that holds for all

    @property
    def where(self) -> str:
        """The subsets, to begin a sentence; empty if it is all of them."""
        return f"in {' and '.join(self.subsets)}, " if self.subsets else ""

    @property
    def caution(self) -> str:
        """What somebody who relies on a figure has to know."""
        return f"{self.where}{self.known.caution}"

    @property
    def in_short(self) -> str:
        """The same in a few words."""
        return f"{self.where}{self.known.in_short}"


def find_unknown(subsets: Mapping[str, KnownIdentities]) -> Unknown | None:
    """Find the subsets of which nothing can be told apart; None if most images of each tell whose they are.

    One such subset is enough: nobody can be told apart from it.
    """
    unknown = {name: one for name, one in subsets.items() if one.state == "unknown"}
    if not unknown:
        return None
    named = () if len(unknown) == len(subsets) else tuple(unknown)
    return Unknown(known=together(unknown.values()), subsets=named)


def note_of(subsets: Mapping[str, KnownIdentities]) -> str | None:
    """What holds for the images of some subsets of which not everything is known; None where every patient is."""
    unknown = find_unknown(subsets)
    return together(subsets.values()).note if unknown is None else unknown.caution


class Identities(Published):
    """What is known of the images that a training learned from (train and val), and of those that it is tested on."""

    train: KnownIdentities
    val: KnownIdentities
    test: KnownIdentities

    @property
    def by_subset(self) -> dict[str, KnownIdentities]:
        """The same by subset."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def unknown(self) -> Unknown | None:
        """The subsets of which nothing can be told apart, if there is one."""
        return find_unknown(self.by_subset)

    @property
    def note(self) -> str | None:
        """What holds for the images of which not everything is known; None where every patient is."""
        return note_of(self.by_subset)

    @property
    def apart(self) -> str:
        """Whether it learned from the people of the test set too, where no overlap was found: a sentence."""
        if (unknown := self.unknown) is not None:
            return sentence(
                f"{unknown.where}{unknown.known.words}, so that nobody can tell whether it learned from any of these "
                f"patients too: {unknown.known.kept_together}"
            )
        learned, all_known = self.train + self.val, together(self.by_subset.values())
        if all_known.state == "known":
            return "None of these patients or lesions is in train or val."
        if all_known.n_with_lesion == all_known.n_images and not all_known.n_with_patient:
            return "None of these lesions is in train or val; patients are unknown, and one may be in both."
        return (
            "No patient or lesion that is known is in train or val as well; a patient who is not known may be in "
            f"both. Here {self.test.words}; where it learned, {learned.words}."
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
