"""What a test asks inside a worker's container: functions that are sent there as source, and print one line of JSON.

They stand here as functions, and not as text, so that types and rules are checked as everywhere.
"""

import inspect
import json
from collections.abc import Callable
from typing import Any

from stack_tests.compose import Stack


def ask_worker(stack: Stack, question: Callable[[], None]) -> Any:
    """Run a function of this module in a worker; returns what it printed last."""
    code = f"{inspect.getsource(question)}\n{question.__name__}()"
    return json.loads(stack.run_in("worker", "python", "-c", code).splitlines()[-1])


def log_keys() -> None:
    """Keys of the logs that lie in the bucket."""
    import json
    import os

    import boto3

    name = os.environ["LESION_BUCKET_URL"].split("/")[2]
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=name, Prefix="logs/")
    print(json.dumps([item["Key"] for page in pages for item in page.get("Contents", ())]))


def bucket_digest() -> None:
    """One SHA-256 over all objects with their keys."""
    import hashlib
    import json

    from lesion_tasks.workspace import open_workspace

    bucket, digest = open_workspace().bucket, hashlib.sha256()
    for key in bucket.list_keys():
        digest.update(key.encode() + bucket.get(key))
    print(json.dumps(digest.hexdigest()))


def whole_state() -> None:
    """Number of keys that rows name, those that the bucket lacks, the champion by row and as published, doubles."""
    import json

    from sqlalchemy import text

    from lesion_tasks.workspace import open_workspace

    workspace = open_workspace()
    statements = {
        "files": "SELECT object_key FROM stored_file WHERE reason IS NULL",
        "models": "SELECT model_key FROM training WHERE status = 'finished'",
        "reports": "SELECT report_key FROM evaluation",
        "champions": "SELECT training_id FROM promotion WHERE action <> 'refused' ORDER BY sequence DESC",
        "sequence": "SELECT sequence FROM promotion ORDER BY sequence",
    }
    with workspace.engine.connect() as connection:
        found = {name: list(connection.execute(text(words)).scalars()) for name, words in statements.items()}
    keys = found["files"] + found["models"] + found["reports"]
    missing = sorted(set(keys) - set(workspace.bucket.list_keys()))
    published = json.loads(workspace.bucket.get("champion.json"))
    n_double = len(found["sequence"]) - len(set(found["sequence"]))
    named = [entry["training_id"] for entry in published.values()]
    print(json.dumps([len(keys), missing, found["champions"][:1], named, n_double]))
