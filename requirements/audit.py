"""Every lock -> known vulnerabilities of what it names, by pip-audit; status 1 when there are any.

    python requirements/audit.py

Without the database of vulnerabilities nothing can be checked: then it says so and ends with status 0, because
neither the code nor the lock is at fault.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", re.MULTILINE)


def main() -> None:
    """Check all locks at once, each version of each package once."""
    pins = sorted({match for path in HERE.glob("*.lock") for match in PIN.findall(path.read_text())})
    # One first: where the database is not to be had, asking for all the others is pointless.
    if _checked(_audit(pins[:1])) == 0:
        print("nothing was checked: the database of vulnerabilities cannot be reached from here")
        return
    found = _audit(pins)
    n_checked = _checked(found)
    for package in found:
        for weakness in package.get("vulns", ()):
            fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {weakness['id']}, mended in {fixed}")
    n_weak = sum(bool(package.get("vulns")) for package in found)
    print(f"{n_checked} of {len(pins)} packages checked, {n_weak} with a known vulnerability")
    sys.exit(1 if n_weak else 0)


def _audit(pins: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Ask about pinned packages; those that could not be looked up carry `skip_reason`, and none at all is []."""
    # Two locks may pin two versions of one package, which one file of requirements may not.
    rounds: list[dict[str, str]] = []
    for name, version in pins:
        free = next((names for names in rounds if name not in names), None)
        if free is None:
            rounds.append({name: version})
        else:
            free[name] = version
    found = []
    for names in rounds:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("".join(f"{name}=={version}\n" for name, version in names.items()))
            file.flush()
            command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
            command += ["--disable-pip", "--no-deps", "--requirement", file.name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.stdout.strip():
            found += json.loads(result.stdout)["dependencies"]
        else:
            print(
                result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "pip-audit said nothing"
            )
    return found


def _checked(found: list[dict[str, Any]]) -> int:
    return sum("skip_reason" not in package for package in found)


if __name__ == "__main__":
    main()
