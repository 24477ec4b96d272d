"""Facts -> a page's HTML: the templates and the style of the reports, and what a served page has besides."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup, escape

from lesion_tasks.catalog.glossary import GLOSSARY
from lesion_tasks.pages.activity import asking_run
from lesion_tasks.reports.environment import environment

STATIC = {
    "pages.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "icon-dark.svg": "image/svg+xml",
}
# Scripts only from the product's own file; nothing from elsewhere; shown in frames of the same origin only.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
# Stored content never runs a script, and never sends a form; its own links still work, to files as well.
STORED_POLICY = (
    "sandbox allow-same-origin allow-downloads; default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


@cache
def _environment() -> Environment:
    shared = environment()
    env: Environment = shared.overlay(
        loader=ChoiceLoader([PackageLoader("lesion_tasks.pages"), PackageLoader("lesion_tasks.reports")])
    )
    env.globals = {**shared.globals, "GLOSSARY": GLOSSARY}
    env.filters = {**shared.filters, "with_runs": with_runs}
    return env


def with_runs(words: str, runs: Sequence[str]) -> Markup:
    """Words in which the ids of some runs that ask about candidates lead to these runs."""
    shown = escape(words)
    for run in map(asking_run, dict.fromkeys(runs)):
        link = Markup('<a href="{0}" data-airflow="{0}">{1}</a>').format(run.page, run.run_id)
        shown = shown.replace(escape(run.run_id), link)
    return shown


def render(template: str, **facts: Any) -> str:
    """A page as HTML. Raises `jinja2.UndefinedError` if a fact is missing."""
    return _environment().get_template(template).render(**facts)


def in_theme(html: bytes, theme: str) -> bytes:
    """A stored report in the theme "dark" or "light", whatever the reader's system prefers."""
    rules = _environment().get_template("themes.css").render().encode()
    html = html.replace(b'<html lang="en"', b'<html lang="en" class="' + theme.encode() + b'"', 1)
    return html.replace(b"</head>", b"<style>" + rules + b"</style></head>", 1)


def dated(html: bytes, opened_at: datetime) -> bytes:
    """A stored report that says on paper when it was opened: when it was made, it says itself."""
    style = f"""<style>@media print {{ body::after {{ content: "Opened {opened_at:%Y-%m-%d %H:%M UTC}"; }} }}</style>"""
    return html.replace(b"</head>", style.encode() + b"</head>", 1)


def markdown_as_html(source: str) -> str:
    """Markdown as HTML in which nothing of the source is HTML, and addresses are only those that a page may have."""
    from markdown_it import MarkdownIt

    html: str = MarkdownIt("js-default", {"html": False}).render(source)
    return html


def static_file(name: str) -> bytes:
    """A file that pages load; raises KeyError for any other name."""
    if name not in STATIC:
        raise KeyError(name)
    return files("lesion_tasks.pages").joinpath("templates", name).read_bytes()
