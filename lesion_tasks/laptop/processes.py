"""A command -> a service that outlives its starter, and that `stop` finds again, and nothing else.

Each service leads its own session. `<folder>/<name>.json` records its process by id, start time and boot, because ids
are reused; everything in its session belongs to it, including processes left behind when it was killed.
"""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 15.0


TAIL_LINES = 15  # of a log, shown where a service fails


@dataclass(frozen=True, kw_only=True)
class Service:
    """A command to keep running, and what it depends on."""

    name: str
    command: tuple[str, ...]
    settings: Mapping[str, str]  # environment variables on top of our own
    depends_on: str = ""  # anything else whose change requires a restart

    @property
    def fingerprint(self) -> str:
        """A digest that changes if the service would run differently."""
        stated = [self.command, sorted(self.settings.items()), self.depends_on]
        return hashlib.sha256(json.dumps(stated).encode()).hexdigest()


# Kept until they end, so that they can be reaped and Python does not warn that they still run.
_children: list[subprocess.Popen[bytes]] = []


def ensure_started(folder: Path, service: Service) -> bool:
    """Start the service unless it already runs with the same settings; return whether it was started now.

    A service that runs with other settings is stopped first. Its output goes to `<folder>/<name>.log`.
    """
    if leader(folder, service.name) is not None:
        if not is_outdated(folder, service):
            return False
        stop(folder, [service.name])
    folder.mkdir(parents=True, exist_ok=True)
    with log_path(folder, service.name).open("wb") as log:
        child = subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env={**inherited_environment(), **service.settings},
        )
    _children.append(child)
    remembered = {
        "pid": child.pid,
        "started": _start_time(psutil.Process(child.pid)),
        "boot": _boot(),
        "fingerprint": service.fingerprint,
    }
    unfinished = _pid_path(folder, service.name).with_suffix(".new")
    unfinished.write_text(json.dumps(remembered))
    unfinished.rename(_pid_path(folder, service.name))
    return True


def is_outdated(folder: Path, service: Service) -> bool:
    """Tell whether the service runs, but with other settings than these."""
    is_running = leader(folder, service.name) is not None
    return is_running and _remembered(folder, service.name).get("fingerprint") != service.fingerprint


def inherited_environment() -> dict[str, str]:
    """Return our own environment without variables of another Airflow or not meant for a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "LESION_"))}


def leader(folder: Path, name: str) -> psutil.Process | None:
    """Return the running process that `ensure_started` started, or None."""
    _reap()
    remembered = _remembered(folder, name)
    if remembered.get("boot") != _boot():
        return None
    try:
        process = psutil.Process(int(remembered["pid"]))
        is_ours = _start_time(process) == remembered["started"]
        return process if is_ours and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def services(folder: Path) -> list[str]:
    """Return the names of all services that were started and not stopped, running or not."""
    return sorted(path.stem for path in folder.glob("*.json"))


def stop(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """Stop these services, by default all, with everything they started; return those that ran.

    They are all signalled at once and have `STOP_TIMEOUT_S` to end; then they are killed.
    """
    names = services(folder) if names is None else list(names)
    members = {name: _members(folder, name) for name in names}
    for name in names:
        # Only the leader is signalled first: it ends its own children in the right order.
        first = leader(folder, name)
        for process in [first] if first is not None else members[name]:
            _signal(process, "terminate")
    psutil.wait_procs([process for found in members.values() for process in found], timeout=STOP_TIMEOUT_S)
    for name in names:
        for process in {*members[name], *_members(folder, name)}:
            _signal(process, "kill")
        psutil.wait_procs(members[name], timeout=STOP_TIMEOUT_S)
        _pid_path(folder, name).unlink(missing_ok=True)
    _reap()
    return [name for name in names if members[name]]


def log_path(folder: Path, name: str) -> Path:
    """Return where a service's output goes."""
    return folder / f"{name}.log"


def tail(path: Path) -> str:
    """Return the last lines of a log; empty if there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    except FileNotFoundError:
        return ""


def wait_for(folder: Path, name: str, is_ready: Callable[[], bool], timeout_s: float) -> None:
    """Wait until `is_ready`; raise `RuntimeError` with the end of the log if the service ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        has_ended = leader(folder, name) is None
        if has_ended or time.monotonic() > deadline:
            what = "ended at its start" if has_ended else f"is not ready after {timeout_s:.0f} s"
            path = log_path(folder, name)
            raise RuntimeError(f"{name} {what}; the end of {path}:\n{tail(path)}")
        time.sleep(0.1)


def _members(folder: Path, name: str) -> list[psutil.Process]:
    """Return every process in the service's session."""
    remembered = _remembered(folder, name)
    if remembered.get("boot") != _boot():
        return []
    pid = int(remembered["pid"])
    if leader(folder, name) is None and psutil.pid_exists(pid) and not _is_zombie(pid):
        return []  # the id now belongs to another process, so nothing of the session is left
    return [process for process in psutil.process_iter() if _is_member(process, pid, folder)]


def _is_member(process: psutil.Process, session: int, folder: Path) -> bool:
    try:
        # The working directory of services is additional evidence: no other process works there.
        return os.getsid(process.pid) == session and Path(process.cwd()) == folder.resolve()
    except (ProcessLookupError, PermissionError, psutil.Error):
        return False


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]


def _remembered(folder: Path, name: str) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(_pid_path(folder, name).read_text())
        return found
    except FileNotFoundError:
        return {}


def _pid_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _boot() -> str:
    """Identify this boot: process ids of an earlier one are meaningless."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(round(psutil.boot_time(), -2))


def _start_time(process: psutil.Process) -> str:
    """Return when a process started, in a form that does not change when the clock is set."""
    try:
        # Field 22 of /proc/<pid>/stat, ticks since boot; the name in field 2 may hold spaces and brackets.
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return f"{process.create_time():.0f}"
    except ProcessLookupError as error:
        raise psutil.NoSuchProcess(process.pid) from error
