"""Write `.env` with generated secrets beside docker-compose.yaml; an existing one only gets the secrets that it lacks.

python docker/write_env.py [PATH]
"""

import base64
import os
import secrets
import sys
from pathlib import Path

PATH = Path(__file__).parent.parent / ".env"
# Accounts of the S3 server of the compose file: for tasks, for task logs, for the pages.
S3_ACCOUNTS = tuple(
    f"S3_{who}_{kind}_KEY" for who in ("TASKS", "LOGS", "READER") for kind in ("ACCESS", "SECRET")
)
SECRETS = (
    "POSTGRES_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "LESIONS_DB_PASSWORD",
    "LESIONS_READER_DB_PASSWORD",
    "REDIS_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    *S3_ACCOUNTS,
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_UI_PASSWORD",
)


def main() -> None:
    """Create the file with mode 0600, or say that it already exists."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    lines = [f"{name}={secrets.token_hex(24)}" for name in SECRETS]
    lines.append(f"AIRFLOW_FERNET_KEY={base64.urlsafe_b64encode(os.urandom(32)).decode()}")
    # Postgres and the S3 server of the compose file, and training on the CPU.
    lines.append("COMPOSE_PROFILES=postgres,s3,cpu")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        _complete(path, lines)
        return
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    sys.stdout.write(f"wrote {path}; log in to the UI as admin with its AIRFLOW_UI_PASSWORD\n")


def _complete(path: Path, lines: list[str]) -> None:
    """Append the secrets that an existing file lacks; what it has stays as it is.

    An S3 that somebody else runs does not know accounts that are made up here, so it gets none.
    """
    present = path.read_text()
    pairs = (line.partition("=") for line in present.splitlines())
    values = {name.strip(): value.partition(" #")[0].strip().strip("'\"") for name, _, value in pairs}
    elsewhere = S3_ACCOUNTS if values.get("S3_ENDPOINT_URL") else ()
    addable = set(SECRETS) - values.keys() - set(elsewhere)
    lacking = [line for line in lines if line.partition("=")[0] in addable]
    if not lacking:
        sys.stdout.write(f"{path} already exists and was left unchanged\n")
        return
    with path.open("a") as file:
        file.write(("" if present.endswith("\n") or not present else "\n") + "\n".join(lacking) + "\n")
    added = ", ".join(line.partition("=")[0] for line in lacking)
    sys.stdout.write(f"{path} already exists; added {added}\n")


if __name__ == "__main__":
    main()
