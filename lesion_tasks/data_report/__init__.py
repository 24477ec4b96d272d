"""A manifest -> one page about its data: what came in, what was left out and why, and what changed.

The page needs no script, font, server or network. Every value is escaped: metadata come from the archive.
"""

from lesion_tasks.data_report.page import page_key, render_data_page, write_data_report

__all__ = ["page_key", "render_data_page", "write_data_report"]
