"""rq-dashboard at /queues, where it is installed (extra `dashboard`): to look at the queues and at failed jobs.

It is mounted to look only. Its own buttons are sent without any proof of where they come from, and one of them is a
plain link; and a job deleted there would leave the mark behind that keeps another from being queued.
"""

from flask import Flask, request
from rq.serializers import JSONSerializer

from skylight.backend.errors import Forbidden
from skylight.backend.queue.allowlist import AllowedJob, AllowedWorker

NAME = "rq_dashboard"
CHANGES = (f"{NAME}.requeue_all",)  # what changes something although it is a GET


def mount(app: Flask, redis_url: str) -> bool:
    """Serve it below /queues, if it is installed and Redis is known by an address; gives whether it is there now."""
    if not redis_url:
        return False
    try:
        from rq_dashboard import blueprint, default_settings, web
    except ImportError:
        return False
    app.config.from_object(default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    web.config.serializer = JSONSerializer
    web.Job, web.Worker = AllowedJob, AllowedWorker  # of its own some read pickles, which run what they hold
    web.setup_rq_connection(app)
    app.register_blueprint(blueprint, url_prefix="/queues")
    app.before_request(_look_only)
    return True


def _look_only() -> None:
    if request.blueprint == NAME and (request.method not in ("GET", "HEAD") or request.endpoint in CHANGES):
        raise Forbidden("the queues are only to be looked at here; what failed is tried again by what comes next")
