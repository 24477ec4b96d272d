"""What a curation could not use as given -> counts and messages for whoever supplied the data.

A placeholder for a patient ties strangers into one group; a sex that cannot be read leaves its image out of a task that
needs it. Neither is an error of a single record: it shows only in the values and their counts over all records.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from lesion_tasks.archive.printable import printable
from lesion_tasks.curation.cleaning import Rejected, unread_values
from lesion_tasks.metrics.counted import plural
from lesion_tasks.metrics.known_identities import KnownIdentities

N_EXAMPLES = 3
MAX_VALUES = 1_000  # distinct values counted for each field

# Nobody has one in twenty of all pictures; below 20 pictures a share means nothing.
MAX_SHARE_OF_IDENTITY = 0.05
MIN_IMAGES_OF_IDENTITY = 20


class Findings:
    """Collects, in bounded memory, the values of a curation that are taken as missing, and the records it rejects."""

    def __init__(self) -> None:
        self.n_unread: Counter[str] = Counter()  # by field
        self._values: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by field
        self._n_rejects: Counter[str] = Counter()  # by reason
        self._examples: defaultdict[str, list[str]] = defaultdict(list)  # by reason

    def note_record(self, document: Mapping[str, Any]) -> None:
        """Count the values of a record that are taken as missing."""
        for field, value in unread_values(document):
            self.n_unread[field] += 1
            values = self._values[field]
            shown = printable(repr(value), 60)
            if shown in values or len(values) < MAX_VALUES:
                values[shown] += 1

    def note_reject(self, reject: Rejected) -> None:
        """Count a record that is not an image."""
        self._n_rejects[reject.reason] += 1
        examples = self._examples[reject.reason]
        if len(examples) < N_EXAMPLES:
            examples.append(f"{reject.isic_id}: {printable(reject.detail, 200)}")

    def unread_in_words(self) -> Iterator[str]:
        """Yield one line for each field with values that were taken as missing."""
        for field, n in self.n_unread.most_common():
            found = ", ".join(
                f"{value} {plural(n, 'time')}" for value, n in self._values[field].most_common(N_EXAMPLES)
            )
            yield f"{field} taken as missing in {plural(n, 'record')}; found {found}"

    def rejects_in_words(self) -> Iterator[str]:
        """Yield one line for each reason of a reject."""
        for reason, n in self._n_rejects.most_common():
            what = "record is not an image" if n == 1 else "records are not images"
            yield f"{n:,} {what} ({reason}), such as {'; '.join(self._examples[reason])}"


_KNOWN = text("""
    SELECT count(*) AS n_images, count(patient_id) AS n_with_patient, count(lesion_id) AS n_with_lesion,
           count(coalesce(patient_id, lesion_id)) AS n_with_either FROM image
""")


def known_identities(connection: Connection) -> KnownIdentities:
    """For how many images of the database patient and lesion are known."""
    return KnownIdentities.model_validate(dict(connection.execute(_KNOWN).one()._mapping))


_TOUCHED = "WHERE atom_id IN (SELECT atom_id FROM image WHERE curated_in >= :since)"
_LARGE = """
    SELECT atom_id, bool_or(atom_id = patient_id) AS is_patient, count(*) AS n, (SELECT count(*) FROM image) AS n_all
    FROM image {touched} GROUP BY atom_id
    HAVING count(*) >= :least AND count(*) > :share * (SELECT count(*) FROM image)
    ORDER BY n DESC LIMIT :n_named
"""
# A placeholder for a lesion belongs to many patients, so all its records are rejected and none is an image.
_LARGE_CONTESTED = text("""
    SELECT detail, count(*) AS n, (SELECT count(*) FROM image) + CAST(sum(count(*)) OVER () AS bigint) AS n_all
    FROM reject WHERE reason = 'lesion_of_two_patients' GROUP BY detail ORDER BY n DESC LIMIT :n_named
""")


def large_identities(connection: Connection, *, since: int | None = None) -> list[str]:
    """Name each patient or lesion that holds more than 5 % of all images and at least 20, with its count.

    `since` is the number of a curation: only identities with an image that it or a later one touched.
    """
    values: dict[str, Any] = {
        "least": MIN_IMAGES_OF_IDENTITY,
        "share": MAX_SHARE_OF_IDENTITY,
        "n_named": N_EXAMPLES,
    }
    statement = text(_LARGE.format(touched="" if since is None else _TOUCHED))
    rows = connection.execute(statement, values | ({} if since is None else {"since": since}))
    doubt = "is that one identity, or a placeholder?"
    words = [
        f"{row.n:,} of {row.n_all:,} images belong to one {'patient' if row.is_patient else 'lesion'}, "
        f"{printable(repr(row.atom_id), 80)}: {doubt}"
        for row in rows
    ]
    for row in connection.execute(_LARGE_CONTESTED, {"n_named": N_EXAMPLES}):
        if row.n >= MIN_IMAGES_OF_IDENTITY and row.n > MAX_SHARE_OF_IDENTITY * row.n_all:
            words.append(
                f"{row.n:,} of {row.n_all:,} images are not used, {printable(row.detail, 160)}: {doubt}"
            )
    return words
