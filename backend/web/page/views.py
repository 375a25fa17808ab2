"""The page for people: `/`, one project, one version's images, and the three things one can do there."""

import logging
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from flask import Blueprint, Flask, Response, current_app, redirect, render_template, request, url_for
from flask.blueprints import BlueprintSetupState
from markupsafe import Markup, escape
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as AnyResponse

from skylight.backend.admin import actions, doctor
from skylight.backend.admin.finding import Finding
from skylight.backend.admin.project_state import RecordCache
from skylight.backend.errors import BadRequest, SkylightError
from skylight.backend.learning.coverage import readiness
from skylight.backend.limits import project_name
from skylight.backend.security.key_file import load_or_create_key
from skylight.backend.service import Service
from skylight.backend.trace import CURRENT_TRACE, record_error
from skylight.backend.web import csrf, ready, rq_dashboard
from skylight.backend.web.http import records_of, service_of
from skylight.backend.web.page import gallery
from skylight.backend.web.page.curves import counted
from skylight.backend.web.page.overview import ProjectView, project_view
from skylight.backend.web.refreshed import Refreshed

STATES = ("fail", "warn", "ok")  # of the doctor's findings, the worst first
NEWEST = 8  # versions that are listed before one asks for the older ones
IMAGES = 24  # of a version, before one asks for all
PICTURE_SECONDS = 7 * 24 * 3600  # a picture's address changes with what it shows
KEY_FILE = "page.key"  # under SKYLIGHT_HOME: what the forms are signed with
# Nothing from elsewhere, no inline script or style, in no frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
DONE = {
    "promoted": "That version is served now; the open tasks get its predictions in the background.",
    "rolled-back": "The version before is served again. What the later one predicted is taken away in the background.",
    "trying": "The annotations that were set aside are tried once more.",
    "training": "Training is queued. If nothing has changed since the newest version, it makes no other one.",
}

blueprint = Blueprint(
    "page", __name__, template_folder="templates", static_folder="static", static_url_path="/page-files"
)
log = logging.getLogger(__name__)


class Pages:
    """What the page keeps between requests, one per application."""

    def __init__(self, service: Service, records: RecordCache) -> None:
        self.service = service
        self.records = records
        self.gallery = gallery.Gallery(service)
        self.readiness = Refreshed(lambda project: readiness(service, project))
        self.findings = Refreshed(lambda _: findings(service))
        self.alerts = ready.Alerts(service, self.findings.get)
        self._guard: csrf.Guard | None = None
        self._spare = csrf.Guard(csrf.new_key())

    @property
    def guard(self) -> csrf.Guard:
        """Signs the forms; its key is read, or made, when the first is shown. While it can be neither, as the disk is
        full, another serves: the page says so, and must be shown.
        """
        if self._guard is None:
            try:
                self._guard = csrf.Guard(load_or_create_key(self.service.settings.home / KEY_FILE, csrf.new_key))
            except OSError as error:
                log.error("%s cannot be kept: %s", KEY_FILE, error)
                return self._spare
        return self._guard

    def view(self, project: str) -> ProjectView:
        """A project; Label Studio is asked beside the request. Raises NotFound."""
        _check_known(self.service, project)
        readiness = self.readiness.get(project) if self.service.labelstudio else None
        return project_view(self.service, project, self.records, readiness)


@blueprint.record_once
def _prepare(state: BlueprintSetupState) -> None:
    app = state.app
    assert isinstance(app, Flask)
    made = app.extensions["skylight-pages"] = Pages(service_of(app), records_of(app))
    app.extensions[ready.NAME] = made.alerts


@blueprint.app_context_processor
def _linked() -> dict[str, Any]:
    trace = CURRENT_TRACE.get()
    return {"dashboard": rq_dashboard.NAME in current_app.blueprints, "request_id": trace.id if trace else ""}


def pages() -> Pages:
    """The application's."""
    found: Pages = current_app.extensions["skylight-pages"]
    return found


def findings(service: Service) -> list[Finding]:
    """What the doctor says."""
    return doctor.findings(service)


@blueprint.route("/", methods=["GET"])
def index() -> str:
    """All projects; the project itself where there is but one."""
    names = pages().service.store.projects()
    if len(names) == 1:
        return show("project.html", view=pages().view(names[0]), findings=_found(), several=False)
    views = [pages().view(name) for name in names]
    return show("index.html", views=views, findings=_found())


@blueprint.route("/projects/<project>", methods=["GET"])
def project(project: str) -> str:
    """One project."""
    several = len(pages().service.store.projects()) > 1
    return show("project.html", view=pages().view(project), findings=_found(), several=several)


@blueprint.route("/projects/<project>/versions/<int:number>", methods=["GET"])
def version(project: str, number: int) -> str:
    """A version's validation images, the worst first."""
    view = pages().view(project)
    row = next((row for row in view.versions if row.number == number), None)
    if row is None:
        raise NotFound(f"Project {project} has no version {number}.")
    found = gallery.items(pages().service.versions.card(project, number), pages().records.samples(project))
    shown = found if "all" in request.args else found[:IMAGES]
    return show("version.html", view=view, row=row, items=shown, count=len(found))


@blueprint.route("/projects/<project>/versions/<int:number>/tasks/<task>.webp", methods=["GET"])
def picture(project: str, number: int, task: str) -> Response:
    """Truth, prediction and disagreement of one task."""
    _check_known(pages().service, project)
    if number not in pages().service.versions.numbers(project):
        raise NotFound(f"Project {project} has no version {number}.")
    data = pages().gallery.draw(project, number, task, pages().records.samples(project))
    answer = Response(data, mimetype="image/webp")
    answer.cache_control.private, answer.cache_control.max_age = True, PICTURE_SECONDS
    return answer


@blueprint.route("/projects/<project>/versions/<int:number>/promote", methods=["POST"])
def promote(project: str, number: int) -> AnyResponse:
    """Serve a version."""
    actions.promote(_acted(project), project, number)
    return _back(project, "promoted")


@blueprint.route("/projects/<project>/roll-back", methods=["POST"])
def roll_back(project: str) -> AnyResponse:
    """Serve the version before the current one again."""
    actions.roll_back(_acted(project), project)
    return _back(project, "rolled-back")


@blueprint.route("/projects/<project>/train", methods=["POST"])
def train(project: str) -> AnyResponse:
    """Train now."""
    actions.train_now(_acted(project), project)
    return _back(project, "training")


@blueprint.route("/projects/<project>/try-again", methods=["POST"])
def try_again(project: str) -> AnyResponse:
    """Try the annotations that were set aside once more."""
    actions.try_again(_acted(project), project)
    return _back(project, "trying")


def _found() -> Sequence[Finding]:
    """What the doctor and the alerts say, the worst first."""
    return sorted(pages().alerts.findings(), key=lambda each: STATES.index(each.state))


def _check_known(service: Service, project: str) -> None:
    """Raise NotFound unless there is such a project, and it is called as projects are."""
    try:
        project_name(project)
    except BadRequest as error:
        raise NotFound(f"{error}.") from error
    if project not in service.store.projects():
        raise NotFound(f"There is no project {project[:80]}.")


def _acted(project: str) -> Service:
    """The service, if this is a form of the page about a project that there is. Raises Forbidden or NotFound."""
    pages().guard.check(request)
    _check_known(pages().service, project)
    log.info("project %s: %s, asked for on the page", project, request.path.rpartition("/")[2])
    return pages().service


def _back(project: str, done: str) -> AnyResponse:
    return redirect(url_for("page.project", project=project, done=done), 303)


def show(template: str, **values: Any) -> str:
    """A page with a form token for the browser that asked."""
    cookie = request.cookies.get(csrf.COOKIE) or secrets.token_urlsafe(16)
    request.environ["skylight.cookie"] = cookie
    done = DONE.get(request.args.get("done", ""), "")
    every = "versions" in request.args
    form = {"form_token": pages().guard.token(cookie), "form_field": csrf.FIELD}
    return render_template(template, done=done, counted=counted, every=every, newest=NEWEST, **form, **values)


@blueprint.app_template_filter()
def clock_time(at: datetime) -> str:
    """A time as people read it, UTC."""
    return f"{at.day} {at:%b %Y, %H:%M} UTC" if at.year > 1 else "unknown"


@blueprint.app_template_filter()
def moment(at: float) -> str:
    """A time that `time.time()` counts, as people read it."""
    return clock_time(datetime.fromtimestamp(at, UTC))


@blueprint.app_template_filter()
def age(seconds: float) -> str:
    """How long something has waited, as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@blueprint.app_template_filter()
def code_marks(text: str) -> Markup:
    """A text with what stands between `backquotes` set as code; everything else escaped."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(marked)  # nosec B704


@blueprint.after_request
def _headers(answer: Response) -> Response:
    if cookie := request.environ.get("skylight.cookie"):
        csrf.give_cookie(request, answer, cookie)
        answer.cache_control.no_store = True  # it holds a form's token
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "same-origin"  # with none at all a form's Origin would be "null"
    return answer


@blueprint.errorhandler(HTTPException)
def _http(error: HTTPException) -> tuple[str, int]:
    return render_template("error.html", message=error.description), error.code or 500


@blueprint.errorhandler(SkylightError)
def _known(error: SkylightError) -> tuple[str, int]:
    log.warning("%s", error)
    record_error(error)
    return render_template("error.html", message=f"{error}."), error.status


@blueprint.errorhandler(redis.RedisError)
def _away(error: redis.RedisError) -> tuple[str, int]:
    log.error("%s", error)
    record_error(error)
    return render_template("error.html", message="Redis does not answer, so nothing was changed. Try again soon."), 503
