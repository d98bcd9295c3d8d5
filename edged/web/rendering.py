"""Templates and what they are given, in the language of who looks."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from edged.journal.browsing import OutcomeWord
from edged.journal.labels import LABELS
from edged.results import Record, display_path, rfc3339, short_name
from edged.web import texts
from edged.web.access import Access
from edged.web.recent import Sight
from edged.web.status import Status
from edged.web.texts import Texts

SECTIONS: Final = ("state", "models", "sources", "latest", "events", "quarantine")
"""Parts of the overview that are replaced while one looks; each has a template of its name."""


class Renderer:
    """Makes pages."""

    def __init__(self, access: Access) -> None:
        """Loads the languages; templates are read when they are first used."""
        self._access, self.languages = access, texts.load()
        self._templates = Environment(
            loader=PackageLoader("edged.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {
            "time": _time,
            "path": display_path,
            "short": short_name,
            "outcome": _outcome,
            "drawn": _drawn,
        }

    def texts(self, request: Request) -> Texts:
        """The language of a request."""
        return texts.choose(request, self.languages)

    def page(self, request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
        """A whole page."""
        t = self.texts(request)
        values |= {"t": t, "languages": self.languages.values(), "here": request.url.path, "logs_in": self._access.asks}
        answer = HTMLResponse(self._templates.get_template(template).render(values), code)
        if request.query_params.get("lang") == t.code:
            answer.set_cookie(texts.COOKIE, t.code, max_age=365 * 86_400, httponly=True, samesite="strict")
        return answer

    def sections(self, t: Texts, status: Status, sight: Sight) -> Mapping[str, str]:
        """The changing parts of the overview."""
        values = {"t": t, "status": status, "sight": sight, "now": status.now, "words": LABELS}
        return {name: self._templates.get_template(f"{name}.html").render(values) for name in SECTIONS}


def _time(moment: datetime | float) -> Markup:
    """A time in UTC, which the browser shows as its own."""
    when = moment if isinstance(moment, datetime) else datetime.fromtimestamp(moment, UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(rfc3339(when.timestamp()), f"{when:%Y-%m-%d %H:%M:%S}")


def _outcome(record: Record) -> OutcomeWord:
    """What became of a picture, in one word."""
    if record.event is not None:
        return "event"
    return "quarantined" if record.error else "anomaly" if record.is_anomaly else "ok"


def _drawn(record: Record) -> str:
    """What tells the drawings of an event apart, for it is drawn again as its score rises."""
    return "" if record.event is None else f"?peak={record.event.peak_at:.3f}"
