"""Notices -> the task's log, and the Airflow connections that the setting LESION_NOTIFY names.

A notice that cannot be delivered is a warning in the log: it never makes a task fail.
"""

import asyncio
import copy
import html
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier, Connection
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from lesion_tasks.upkeep.notices import Notice

log = logging.getLogger(__name__)

SLACK_WEBHOOKS = "https://hooks.slack.com/services"
TIMEOUT_S = 10.0


class LesionNotifier(BaseNotifier):
    """Tell people about one event; about, subject, text and page are templates.

    Without `about`, whoever calls it calls it once: Airflow's own rows say so of ended runs and missed deadlines.
    """

    template_fields = ("about", "subject", "text", "page")

    def __init__(
        self,
        *,
        event: str,
        about: str | None = None,
        subject: str,
        text: str = "",
        page: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.event, self.about, self.subject, self.text, self.page = event, about, subject, text, page

    def __call__(self, *args: Any) -> None:
        """Render and deliver a copy: rendering is in place, and that of a DAG is called for one run after the other."""
        BaseNotifier.__call__(copy.copy(self), *args)

    def notify(self, context: Any) -> None:
        """Deliver it from a task, or from the DAG processor."""
        from lesion_tasks.upkeep.notices import Notice

        tell(Notice(event=self.event, about=self.about, subject=self.subject, text=self.text, page=self.page))

    async def async_notify(self, context: Any) -> None:
        """Deliver it from the triggerer."""
        await asyncio.to_thread(self.notify, context)


def tell(*notices: "Notice | None") -> None:
    """Log each notice that there is, and send it to every connection of LESION_NOTIFY that has not had it."""
    from lesion_tasks.settings import read_settings

    for notice in filter(None, notices):
        link = link_to(notice.page)
        level = logging.WARNING if notice.is_alarming else logging.INFO
        log.log(level, "%s: %s %s", notice.subject, notice.text, link)
        for name in read_settings().notify:
            try:
                _send_once(_Sending(notice, name, link))
            except Exception as error:  # whatever it is, the work itself is done
                log.warning("notice %r was not sent to connection %r: %s", notice.subject, name, error)


class _Sending:
    """One notice on its way to one connection."""

    def __init__(self, notice: "Notice", name: str, link: str) -> None:
        self.notice, self.name, self.link = notice, name, link
        self.is_begun = self.is_done = False

    def __call__(self) -> None:
        self.is_begun = True
        connection = Connection.get(self.name)
        _sender(connection.conn_type)(connection, self.notice, self.link)
        self.is_done = True


def _send_once(sending: _Sending) -> None:
    """Send it unless it is noted as sent, and note it. If the database does not answer, it is sent all the same."""
    if sending.notice.about is None:
        sending()
        return
    from lesion_tasks.upkeep.notices import delivering
    from lesion_tasks.workspace import open_workspace

    try:
        with delivering(open_workspace(), sending.notice, sending.name) as is_new:
            if is_new:
                sending()
            else:
                log.info("connection %r was told before", sending.name)
    except Exception as error:
        if sending.is_begun and not sending.is_done:
            raise
        log.warning(
            "notice %r is not noted as sent to connection %r, which may be told twice: %s",
            sending.notice.subject,
            sending.name,
            error,
        )
        if not sending.is_begun:
            sending()


def link_to(page: str) -> str:
    """The address of one of the product's pages inside Airflow's UI, or of Airflow's own if it begins with a slash."""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return base + page if page.startswith("/") else f"{base}/plugin/lesions/lesions/{page}"


def _sender(conn_type: str) -> Callable[[Any, "Notice", str], None]:
    senders = {"smtp": _send_mail, "slackwebhook": _post_to_slack, "http": _post, "https": _post}
    if conn_type not in senders:
        raise ValueError(f"its type is {conn_type!r}, expected one of {', '.join(senders)}")
    return senders[conn_type]


def _send_mail(connection: Any, notice: "Notice", link: str) -> None:
    """By the provider's hook; the connection's extra "to" names the recipients, "from_email" the sender."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    to = connection.extra_dejson.get("to")
    if not to:
        raise ValueError('its extra names no recipients: expected "to"')
    paragraphs = (notice.text, link)
    body = "".join(f"<p>{html.escape(words)}</p>" for words in paragraphs if words)
    with SmtpHook(smtp_conn_id=connection.conn_id) as hook:
        hook.send_email_smtp(to=to, subject=notice.subject, html_content=body)


def _post_to_slack(connection: Any, notice: "Notice", link: str) -> None:
    """To an incoming webhook; the password is its token or its whole address, as the Slack provider has it.

    What people typed names no channel, person or link: Slack reads those between angle brackets.
    """
    token = connection.password or ""
    base = (connection.host or SLACK_WEBHOOKS).rstrip("/")
    address = token if "://" in token else f"{base}/{token}"
    subject, words = (html.escape(part, quote=False) for part in (notice.subject, notice.text))
    _post_json(address, {"text": f"*{subject}*\n{words}\n{link}"}, {})


def _post(connection: Any, notice: "Notice", link: str) -> None:
    """As JSON; host, schema, port and the extra "endpoint" give the address, the password a bearer token."""
    host = connection.host or ""
    base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    base += f":{connection.port}" if connection.port else ""
    endpoint = str(connection.extra_dejson.get("endpoint", "")).lstrip("/")
    headers = {"Authorization": f"Bearer {connection.password}"} if connection.password else {}
    _post_json(f"{base}/{endpoint}", {**notice.as_dict(), "link": link}, headers)


def _post_json(address: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    import httpx

    answer = httpx.post(
        address,
        content=json.dumps(body),
        headers={"Content-Type": "application/json", **headers},
        timeout=TIMEOUT_S,
    )
    if answer.status_code >= 300:
        raise ValueError(f"answered {answer.status_code}")  # the address may hold a secret: it is not named
