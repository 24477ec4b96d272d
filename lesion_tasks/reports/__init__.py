"""A bundle (everything known about one evaluation) -> the files that people read; a leaderboard -> the index page.

Pages need no script, font, server or network. Every value is escaped: titles and metadata come from the archive.
"""

from __future__ import annotations

from lesion_tasks.reports.bundle import bundle_schema
from lesion_tasks.reports.index import render_index
from lesion_tasks.reports.page import render_bundle

__all__ = ["bundle_schema", "render_bundle", "render_index"]
