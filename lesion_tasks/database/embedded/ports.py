"""A remembered port number -> a free port of 127.0.0.1, the same one unless something else uses it."""

import socket
from pathlib import Path

import psutil


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port now."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


def free_port(remembered: Path) -> int:
    """Return the port that the file names if it is free, so that addresses stay valid, else any free one."""
    if remembered.exists() and is_free(port := int(remembered.read_text())):
        return port
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    remembered.write_text(str(port))
    return port


def holder(port: int) -> str:
    """Say who listens on a port, as far as the system tells us."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if is_listening and connection.pid is not None:
                return f"in use by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:  # not every user may look
        pass
    return "in use by another process, or not permitted"
