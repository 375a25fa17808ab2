"""The page for people: all projects, one project, one version's images, and the actions on a project."""

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
from skylight.backend.admin.findings import Finding
from skylight.backend.admin.project_state import RecordCache
from skylight.backend.errors import BadRequest, SkylightError
from skylight.backend.learning.coverage import readiness
from skylight.backend.limits import project_name
from skylight.backend.security.key_file import load_or_create_key
from skylight.backend.service import Service
from skylight.backend.trace import CURRENT_TRACE, record_error
from skylight.backend.web import csrf, ready, rq_dashboard
from skylight.backend.web.background import BackgroundCache
from skylight.backend.web.http import records_of, service_of
from skylight.backend.web.page import gallery
from skylight.backend.web.page.charts import counted
from skylight.backend.web.page.overview import ProjectView, project_view

STATES = ("fail", "warn", "ok")  # of findings, the worst first
LISTED_VERSIONS = 8  # the newest; the older ones are behind a link
LISTED_IMAGES = 24  # of a version, the worst; all of them are behind a link
PICTURE_SECONDS = 7 * 24 * 3600  # in a browser's cache: a picture's address changes with what it shows
NAME = "skylight-page"
KEY_FILE = "page.key"  # under SKYLIGHT_HOME: what the forms are signed with
# Nothing is loaded from elsewhere, no inline script or style, in no frame.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
MESSAGES = {  # after an action, by its name in the address
    "promoted": "That version is served now; the open tasks get its predictions in the background.",
    "rolled-back": "The version before is served again. What the later one predicted is taken away in the background.",
    "trying": "The annotations that were set aside are tried once more.",
    "training": "Training is queued. If nothing has changed since the newest version, it makes no other one.",
}

blueprint = Blueprint(
    "page", __name__, template_folder="templates", static_folder="static", static_url_path="/page-files"
)
log = logging.getLogger(__name__)


class PageState:
    """What the page keeps between requests, one per application."""

    def __init__(self, service: Service, records: RecordCache) -> None:
        self.service = service
        self.records = records
        self.gallery = gallery.Gallery(service)
        self.readiness = BackgroundCache(lambda project: readiness(service, project))
        self.findings = BackgroundCache(lambda _: doctor.findings(service))
        self.alerts = ready.Alerts(service, self.findings.get)
        self._signer: csrf.FormSigner | None = None
        self._temporary_signer = csrf.FormSigner(csrf.new_key())

    @property
    def signer(self) -> csrf.FormSigner:
        """Signs the forms. Its key is read, or made, when the first form is shown; while that fails, as on a full disk,
        a temporary one serves, so that the page can be shown and tell of it.
        """
        if self._signer is None:
            try:
                self._signer = csrf.FormSigner(load_or_create_key(self.service.settings.home / KEY_FILE, csrf.new_key))
            except OSError as error:
                log.error("%s cannot be kept: %s", KEY_FILE, error)
                return self._temporary_signer
        return self._signer

    def view(self, project: str) -> ProjectView:
        """A project; Label Studio is asked in the background. Raises NotFound."""
        _check_project(self.service, project)
        readiness = self.readiness.get(project) if self.service.labelstudio else None
        return project_view(self.service, project, self.records, readiness)


@blueprint.record_once
def _prepare(setup: BlueprintSetupState) -> None:
    app = setup.app
    assert isinstance(app, Flask)
    state = app.extensions[NAME] = PageState(service_of(app), records_of(app))
    app.extensions[ready.NAME] = state.alerts


@blueprint.app_context_processor
def _template_variables() -> dict[str, Any]:
    trace = CURRENT_TRACE.get()
    return {"dashboard": rq_dashboard.NAME in current_app.blueprints, "request_id": trace.id if trace else ""}


def page_state() -> PageState:
    """The application's."""
    state: PageState = current_app.extensions[NAME]
    return state


@blueprint.route("/", methods=["GET"])
def index() -> str:
    """All projects; the project itself if there is only one."""
    names = page_state().service.store.projects()
    if len(names) == 1:
        return show("project.html", view=page_state().view(names[0]), findings=_findings(), several=False)
    views = [page_state().view(name) for name in names]
    return show("index.html", views=views, findings=_findings())


@blueprint.route("/projects/<project>", methods=["GET"])
def project(project: str) -> str:
    """One project."""
    several = len(page_state().service.store.projects()) > 1
    return show("project.html", view=page_state().view(project), findings=_findings(), several=several)


@blueprint.route("/projects/<project>/versions/<int:number>", methods=["GET"])
def version(project: str, number: int) -> str:
    """A version's validation images, the worst first."""
    state = page_state()
    view = state.view(project)
    row = next((row for row in view.versions if row.number == number), None)
    if row is None:
        raise NotFound(f"Project {project} has no version {number}.")
    items = gallery.gallery_items(state.service.versions.card(project, number), state.records.samples(project))
    listed = items if "all" in request.args else items[:LISTED_IMAGES]
    return show("version.html", view=view, row=row, items=listed, count=len(items))


@blueprint.route("/projects/<project>/versions/<int:number>/tasks/<task>.webp", methods=["GET"])
def picture(project: str, number: int, task: str) -> Response:
    """Truth, prediction and disagreement of one task."""
    state = page_state()
    _check_project(state.service, project)
    if number not in state.service.versions.numbers(project):
        raise NotFound(f"Project {project} has no version {number}.")
    data = state.gallery.draw(project, number, task, state.records.samples(project))
    response = Response(data, mimetype="image/webp")
    response.cache_control.private, response.cache_control.max_age = True, PICTURE_SECONDS
    return response


@blueprint.route("/projects/<project>/versions/<int:number>/promote", methods=["POST"])
def promote(project: str, number: int) -> AnyResponse:
    """Serve a version."""
    actions.promote(_checked_service(project), project, number)
    return _redirect(project, "promoted")


@blueprint.route("/projects/<project>/roll-back", methods=["POST"])
def roll_back(project: str) -> AnyResponse:
    """Serve the version before the current one again."""
    actions.roll_back(_checked_service(project), project)
    return _redirect(project, "rolled-back")


@blueprint.route("/projects/<project>/train", methods=["POST"])
def train(project: str) -> AnyResponse:
    """Train now."""
    actions.train_now(_checked_service(project), project)
    return _redirect(project, "training")


@blueprint.route("/projects/<project>/try-again", methods=["POST"])
def try_again(project: str) -> AnyResponse:
    """Try the annotations that were set aside once more."""
    actions.try_again(_checked_service(project), project)
    return _redirect(project, "trying")


def _findings() -> Sequence[Finding]:
    """The findings of the doctor and the alerts, the worst first."""
    return sorted(page_state().alerts.findings(), key=lambda finding: STATES.index(finding.state))


def _check_project(service: Service, project: str) -> None:
    """Raise NotFound unless there is such a project."""
    try:
        project_name(project)
    except BadRequest as error:
        raise NotFound(f"{error}.") from error
    if project not in service.store.projects():
        raise NotFound(f"There is no project {project[:80]}.")


def _checked_service(project: str) -> Service:
    """The service, for an action. Raises Forbidden unless the request is the page's own form, NotFound unless there is
    such a project.
    """
    page_state().signer.check(request)
    _check_project(page_state().service, project)
    log.info("project %s: %s, asked for on the page", project, request.path.rpartition("/")[2])
    return page_state().service


def _redirect(project: str, done: str) -> AnyResponse:
    return redirect(url_for("page.project", project=project, done=done), 303)


def show(template: str, **values: Any) -> str:
    """A page with a form token for the browser that asked."""
    cookie = request.cookies.get(csrf.COOKIE) or secrets.token_urlsafe(16)
    request.environ["skylight.cookie"] = cookie
    return render_template(
        template,
        done=MESSAGES.get(request.args.get("done", ""), ""),
        counted=counted,
        all_versions="versions" in request.args,
        listed_versions=LISTED_VERSIONS,
        form_token=page_state().signer.token(cookie),
        form_field=csrf.FIELD,
        **values,
    )


@blueprint.app_template_filter()
def clock_time(at: datetime) -> str:
    """A date and time for people, UTC."""
    return f"{at.day} {at:%b %Y, %H:%M} UTC" if at.year > 1 else "unknown"


@blueprint.app_template_filter()
def moment(at: float) -> str:
    """A time as `time.time()` counts it, for people, UTC."""
    return clock_time(datetime.fromtimestamp(at, UTC))


@blueprint.app_template_filter()
def age(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@blueprint.app_template_filter()
def code_marks(text: str) -> Markup:
    """A text as HTML, with what stands in `backquotes` set as code and everything else escaped."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(marked)  # nosec B704


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    if cookie := request.environ.get("skylight.cookie"):
        csrf.set_cookie(request, response, cookie)
        response.cache_control.no_store = True  # it holds a form's token
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"  # with none at all a form's Origin would be "null"
    return response


@blueprint.errorhandler(HTTPException)
def _answer_http_error(error: HTTPException) -> tuple[str, int]:
    return render_template("error.html", message=error.description), error.code or 500


@blueprint.errorhandler(SkylightError)
def _answer_skylight_error(error: SkylightError) -> tuple[str, int]:
    log.warning("%s", error)
    record_error(error)
    return render_template("error.html", message=f"{error}."), error.status


@blueprint.errorhandler(redis.RedisError)
def _answer_redis_error(error: redis.RedisError) -> tuple[str, int]:
    log.error("%s", error)
    record_error(error)
    return render_template("error.html", message="Redis does not answer, so nothing was changed. Try again soon."), 503
