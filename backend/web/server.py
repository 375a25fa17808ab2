"""The web server: gunicorn with threads, in one process, so that all clicks share the embeddings in memory."""

import logging
import sys
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from skylight.backend.errors import SkylightError
from skylight.backend.process.admission import MAX_WAITING
from skylight.backend.settings import Settings
from skylight.backend.store import migrations
from skylight.backend.web.admission import SPARE_THREADS
from skylight.backend.web.listen import address
from skylight.model.sam import checkpoints

REQUEST_SECONDS = 120  # Label Studio itself gives up after 100 s
KEEP_ALIVE_SECONDS = 75
APP_LOAD_ERROR = 4  # gunicorn's own status for it
GRACE_SECONDS = 6  # from SIGTERM, for the clicks under way; `skylight serve` kills after STOP_SECONDS

log = logging.getLogger(__name__)


class GunicornLogger(Logger):  # type: ignore[misc]
    """gunicorn's own messages, in the log of the process; requests are logged by `skylight.backend.web.tracing`."""

    def setup(self, cfg: Any) -> None:
        """Set up without a handler or a file of its own."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with its options given here instead of on its command line."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings = settings
        self.host = host
        self.options = {
            "bind": address(host, port),
            "workers": 1,
            "worker_class": "gthread",
            "threads": settings.threads + MAX_WAITING + SPARE_THREADS,  # started as they are needed
            "timeout": REQUEST_SECONDS,
            "graceful_timeout": GRACE_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "proc_name": "skylight-web",
            "control_socket_disable": True,
            "logger_class": GunicornLogger,
        }
        super().__init__()

    def load_config(self) -> None:
        """Hand the options to gunicorn."""
        for name, value in self.options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, with the SAM loaded: after the fork, before the first request."""
        # Imported here, after the fork: they import PyTorch, and gunicorn's own process does without its 0.4 GB.
        from skylight.backend.service import Service
        from skylight.backend.web.app import create_app
        from skylight.backend.worker.maintenance import Maintenance

        service = Service(self.settings)
        service.files.prefer_copies()
        try:
            migrations.check(service.files, service.queue.redis)
        except SkylightError as error:
            log.error("%s", error)
            sys.exit(APP_LOAD_ERROR)  # gunicorn ends with it, and does not try again
        Maintenance(service, sweep=False).__enter__()  # ends with the process
        log.info("SAM %s is loaded", service.embedder.segmenter.encoder_id)
        return create_app(self.settings, service, self.host)


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM. Raises CheckpointError or SamError if the SAM's weights are not there."""
    checkpoints.required_file(settings.sam, settings.home / "checkpoints")
    Server(settings, host, port).run()
