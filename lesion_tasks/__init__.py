"""From the ISIC Archive to a champion, in the order the data takes.

    record -> image -> split -> training -> evaluation -> champion

    ingest       the archive -> versioned records and verified files
    curate       records and files -> images, or rejects with a reason
    split        images -> group assignments and one immutable manifest
    materialize  manifest -> shards of decoded pixels
    train        variant and manifest -> a stored model and keyed predictions
    evaluate     training -> a report bundle and a verdict
    promote      evaluations -> a decision, and perhaps a new champion

Steps meet in tables and objects, never in Python. None of them imports Airflow.
"""

__version__ = "0.1.0"


class UnusableInputError(Exception):
    """The input or a setting is wrong and will stay wrong: fail at once, do not retry.

    The message names the thing, what was found and what was expected.
    """


class UnavailableError(Exception):
    """Something did not answer, in spite of retries at its door: worth trying again later.

    The message names the thing and what it said.
    """
