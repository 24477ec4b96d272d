"""What the site (`make site`, mkdocs.yml) does to the Markdown: pages from the project's folder, and links to files."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages that lie beside `docs/`, and their names on the site.
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside `docs/`, as if they were in it, and a nav for the decisions."""
    for name, page in BESIDE.items():
        files.append(File.generated(config, page, content=_relinked((ROOT / name).read_text())))
    decisions = sorted(file.src_uri for file in files if file.src_uri.startswith("decisions/"))
    config.nav = [
        {"Decisions": decisions} if entry == {"Decisions": "decisions"} else entry for entry in config.nav
    ]
    return files


def _relinked(text: str) -> str:
    """Links of a page in the project's folder as they are from within `docs/`; to other files, the words alone."""

    def relink(found: re.Match[str]) -> str:
        mark, words, target, anchor = found.groups(default="")
        if "://" in target:
            return found[0]
        if target in BESIDE or (target.startswith("docs/") and target.endswith(".md")):
            return f"{mark}[{words}]({BESIDE.get(target, target.removeprefix('docs/'))}{anchor})"
        return words

    return _LINK.sub(relink, text)
