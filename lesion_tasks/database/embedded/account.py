"""The owner of a data folder -> who runs the Postgres server, which refuses to run as root."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lesion_tasks import UnusableInputError

NOBODY = 65534  # the unprivileged user that every Unix has


@dataclass(frozen=True, kw_only=True)
class Account:
    """How to run a server binary: a command prefix, and options of `Popen`."""

    prefix: tuple[str, ...] = ()
    popen_options: dict[str, Any]


def account_for(data: Path, binary: Path, *, may_chown: bool) -> Account:
    """Choose who runs the server, since Postgres refuses to run as root.

    An ordinary user: that user. Root: whoever owns the data folder; if that is root too, a user namespace in
    which root has another user id (nothing on disk changes owner). Where the system does not permit
    namespaces, as in many containers, a new data folder is given to `nobody`.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PG") and name != "LC_ALL"
    }
    # Postgres must start in a folder that it may enter.
    options: dict[str, Any] = {"env": environment | {"LC_ALL": "C"}, "cwd": "/"}
    if os.geteuid() != 0:
        return Account(popen_options=options)
    owner = data.stat().st_uid
    if owner == 0:
        if prefix := _namespace_prefix():
            return Account(prefix=prefix, popen_options=options)
        if not may_chown:
            raise UnusableInputError(
                f"Postgres cluster {data}: belongs to root, created where user namespaces were permitted; here "
                "they are not (`unshare -U`). Expected permission to use them, or another owner: "
                f"chown -R {NOBODY}:{NOBODY} {data}"
            )
        owner = NOBODY
        os.chown(data, NOBODY, NOBODY)
    _check_reachable(data, binary, owner)
    return Account(popen_options=options | {"user": owner, "group": data.stat().st_gid, "extra_groups": []})


@cache
def _namespace_prefix() -> tuple[str, ...]:
    prefix = ("unshare", "-U", "--map-user=1000", "--map-group=1000")
    if shutil.which("unshare") is None:
        return ()
    works = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if works else ()


def _check_reachable(data: Path, binary: Path, owner: int) -> None:
    """Raise unless user `owner` may reach the data folder and the binaries."""
    for path in (data, binary):
        walk = ["test", "-x", str(path)]
        found = subprocess.run(walk, user=owner, group=owner, extra_groups=[], cwd="/", check=False)
        if found.returncode != 0:
            raise UnusableInputError(
                f"{path}: user {owner}, who has to run Postgres because root may not, cannot reach it; "
                "expected a checkout and a LESION_HOME that every user may enter, or an ordinary user, or a "
                "LESION_DATABASE_URL"
            )
