"""The document of the review page: one template, the report's style sheet with ours, one script, allowed by digest."""

import json
import re
from importlib.resources import files

import jinja2
from markupsafe import Markup

from ecor.storage.digests import text_sha256
from pipelines.config.review import LONGEST_NAME
from pipelines.reporting.html_page import policy_digest
from pipelines.review.server.service import ReviewService

_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; style-src '{style}'; script-src '{script}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render_page(service: ReviewService, *, header: str) -> str:
    """Render the document; the template escapes all data, and the script gets its settings as attributes."""
    ours, reports = files("pipelines.review.server") / "templates", files("pipelines.reporting") / "templates"
    css = (reports / "report.css").read_text(encoding="utf-8") + (ours / "review.css").read_text(encoding="utf-8")
    js = (ours / "review.js").read_text(encoding="utf-8")
    assert "</" not in css + js, "a closing tag would end the style or the script"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((ours / "review.html.j2").read_text(encoding="utf-8"))
    session = service.session
    settings = {
        "header": header,
        "reviewer": service.reviewer,
        "sample": session.sample is not None,
        "store": text_sha256(session.decisions.of.labels_digest)[:12],
        "nextSteps": list(service.next_steps),
        "longestName": LONGEST_NAME,
        "hasModel": service.model_maps is not None,
    }
    return template.render(
        css=Markup(css),  # noqa: S704 - our own files, no data
        js=Markup(js),  # noqa: S704
        settings=json.dumps(settings),
        title=service.title,
        names=service.names,
        num_labels=len(session.index) if session.sample is None else len(session.sample),
        is_sample=session.sample is not None,
        has_model=service.model_maps is not None,
        decisions=session.decisions.folder,
    )


def page_policy(page: str) -> str:
    """The content security policy of a rendered page: its one style sheet and its one script."""
    style, script = (_between(page, tag) for tag in ("style", "script"))
    return _POLICY.format(style=policy_digest(style), script=policy_digest(script))


def _between(page: str, tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    assert len(found) == 1, f"the page has {len(found)} elements {tag}"
    return str(found[0])
