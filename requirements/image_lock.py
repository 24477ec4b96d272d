"""A lock -> the part of it that goes into an image on a machine like this one: packages for other systems are left out.

python requirements/image_lock.py LOCK > PART
"""

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

DOCKERFILE = Path(__file__).parents[1] / "docker" / "Dockerfile"
# name==version ; marker \, and its hashes on the lines after it, each but the last with a backslash.
PACKAGE = re.compile(r"^([^#\s][^\\\n]*)\\\n((?: .*\n)+)", re.MULTILINE)


def image_python() -> str:
    """The version of Python in the images, such as 3.11."""
    found = re.search(r"^ARG BASE=python:(\d+\.\d+)", DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{DOCKERFILE} names no base image of Python")
    return found[1]


def part_of(lock: str) -> str:
    """The packages whose markers hold on this system, with the images' Python."""
    version = image_python()
    python = {"python_version": version, "python_full_version": f"{version}.99"}
    return "".join(
        match[0]
        for match in PACKAGE.finditer(lock)
        if (marker := Requirement(match[1]).marker) is None or marker.evaluate(python)
    )


if __name__ == "__main__":
    sys.stdout.write(part_of(Path(sys.argv[1]).read_text()))
