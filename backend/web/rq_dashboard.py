"""rq-dashboard at /queues, if it is installed (extra `dashboard`): the queues and failed jobs, read-only.

Its own buttons are sent without protection against other sites, and one of them is a plain link; and a job deleted
there would leave its mark behind, which keeps another job from being queued.
"""

from flask import Flask, request
from rq.serializers import JSONSerializer

from skylight.backend.errors import Forbidden
from skylight.backend.queue.allowlist import AllowedJob, AllowedWorker

NAME = "rq_dashboard"
UNSAFE_GETS = (f"{NAME}.requeue_all",)  # endpoints that change something although they are a GET


def install(app: Flask, redis_url: str) -> bool:
    """Serve it below /queues, if it is installed and Redis has an address; returns whether it is served."""
    if not redis_url:
        return False
    try:
        from rq_dashboard import blueprint, default_settings, web  # the extra `dashboard`
    except ImportError:
        return False
    app.config.from_object(default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    web.config.serializer = JSONSerializer
    web.Job, web.Worker = AllowedJob, AllowedWorker  # its own unpickle some values, which runs what they hold
    web.setup_rq_connection(app)
    app.register_blueprint(blueprint, url_prefix="/queues")
    app.before_request(_require_read)
    return True


def _require_read() -> None:
    if request.blueprint == NAME and (request.method not in ("GET", "HEAD") or request.endpoint in UNSAFE_GETS):
        raise Forbidden("the queues can only be looked at here; failed work is tried again with the next event")
