"""The documents -> the shell commands that they show, and what runs each of them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from lesion_tasks.cli.documents import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_INLINE = re.compile(r"`(lesion [a-z][^`\n]*)`")
_PROGRAMS = ("lesion", ".venv/bin/lesion", "make", "docker", "docker/backup.sh", "docker/restore.sh", "aws", "kubectl",
             "helm", "airflow", "python", "pip", ".", "export")  # fmt: skip
# Pages that a test follows from the first command on, and the section with which it ends before the page does.
FOLLOWED = {
    "docs/questions.md": "tests/test_questions.py",
    "docs/your-own-pictures.md": "tests/test_own_pictures.py",
    "docs/your-own-question.md": "tests/test_own_question.py",
}
NOT_FOLLOWED = {"docs/your-own-pictures.md": "With a few hundred pictures"}
# Pages whose commands are shown for another purpose.
RECORDS = {
    "docs/results.md": "what a figure was measured with, by the version of that day; hours, and data that are not here",
    "docs/commands.md": "the usage of each command, generated",
    "CHANGELOG.md": "what changed",
}
# Commands that need what a check on one machine does not have.
NOT_HERE = {
    r"(docker|docker/\w+\.sh) ": "needs a Docker engine: make test-stack",
    r"make (images|test-stack|test-faults|sbom)\b": "needs a Docker engine, or an hour",
    r"(kubectl|helm) ": "needs a cluster",
    r"(\.venv/bin/)?lesion leave-out .*--by collections": "needs an archive with collections",
    r"(\.venv/bin/)?lesion leave-out .*--seeds": "fifteen trainings; a test holds out with two seeds",
    r"lesion promote .*--training ": "needs a training that the gates refused: tests/test_promotion.py",
    r"pip install ": "needs a network",
    r"aws ": "needs an S3 of somebody else's",
    r"airflow users ": "needs the FAB provider, which no lock has",
    r"AIRFLOW__\w+=": "a setting, not a command",
    r"make demo\b.*\b(isic|/data/)": "needs the public archive, or somebody's pictures",
    r"make demo\b": "starts Airflow for minutes: tests/test_end_to_end.py and ui_tests run what it runs",
    r"make (test|lint|format|docs|setup|site|docs-check|test-ui|test-variants|pictures)\b": "the checks themselves",
    r"make (env|stop|clean|audit|agree|locks|migration|archive-server)\b": "changes this checkout, or needs a network",
}


@dataclass(frozen=True)
class Documented:
    """One command as a page shows it."""

    page: str  # relative to the project
    line: str  # without its comment
    section: str = ""  # the heading above it
    is_inline: bool = False  # part of a sentence, where arguments may be left out

    @property
    def words(self) -> list[str]:
        """The words of a `lesion` command behind its settings and the program, without a redirection.

        What stands in angle brackets is one word.
        """
        words = shlex.split(re.sub(r" > \S+$", "", re.sub(r"<[^>]*>", "WORD", self.line)))
        while "=" in words[0]:
            words.pop(0)
        return words[1:]

    @property
    def is_ours(self) -> bool:
        return bool(re.match(r"(LESION_\w+=\S+ )*(\.venv/bin/)?lesion( |$)", self.line))

    @property
    def reason_not_run(self) -> str | None:
        """Why `make docs-check` does not run it; None if it does."""
        if self.is_inline:
            return "part of a sentence"
        if self.page in FOLLOWED and self.section != NOT_FOLLOWED.get(self.page):
            return f"followed by {FOLLOWED[self.page]}"
        if self.page in RECORDS:
            return RECORDS[self.page]
        return next((why for pattern, why in NOT_HERE.items() if re.match(pattern, self.line)), None)


def documented_commands() -> Iterator[Documented]:
    """Yield every command of the fenced blocks of every page, then those within sentences."""
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        for found in _BLOCK.finditer(text):
            indent, kind, block = found.groups()
            section = (_HEADING.findall(text[: found.start()]) or [""])[-1]
            for line in _joined(block.replace(f"\n{indent}", "\n")):
                if "->" in line:
                    continue  # the way that data take, not a command
                if kind == "sh" or (not kind and line.split(" ")[0] in _PROGRAMS):
                    yield Documented(page, line, section)
        for line in _INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            yield Documented(page, line, is_inline=True)


def _joined(block: str) -> Iterator[str]:
    """Yield the lines of a block, without comments, continued ones joined."""
    for line in block.replace("\\\n", " ").splitlines():
        if command := re.sub(r"(^|\s)#.*", "", line).strip():
            yield re.sub(r"\s+", " ", command) if '"' not in command else command


def fenced(page: str, kind: str) -> Iterator[str]:
    """Yield the blocks of one kind on a page."""
    yield from (block for _, found, block in _BLOCK.findall((ROOT / page).read_text()) if found == kind)
