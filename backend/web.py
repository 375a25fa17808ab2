"""The web server: gunicorn with threads, in one process, so that all clicks share the embeddings in memory."""

import logging
from typing import Any

from gunicorn.app.base import BaseApplication

from backend.settings import Settings
from model import checkpoints

REQUEST_SECONDS = 120  # Label Studio itself gives up after 100 s
KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 6  # from SIGTERM, for the clicks under way; `skylight serve` kills after STOP_SECONDS

log = logging.getLogger(__name__)


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with its options given here instead of on its command line."""

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        self.settings = settings
        self.options = {
            "bind": f"{host}:{port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": settings.threads,
            "timeout": REQUEST_SECONDS,
            "graceful_timeout": GRACE_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "proc_name": "skylight-web",
            "control_socket_disable": True,
        }
        super().__init__()

    def load_config(self) -> None:
        """Hand the options to gunicorn."""
        for name, value in self.options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The application, with the SAM loaded: before the first request, after the fork.

        PyTorch too, so that gunicorn's own process does without its 0.4 GB.
        """
        from backend.app import create_app
        from backend.service import Service
        from backend.upkeep import Upkeep

        service = Service(self.settings)
        Upkeep(service, sweep=False).__enter__()  # ends with the process
        log.info("SAM %s is loaded", service.pictures.segmenter.encoder_id)
        return create_app(self.settings, service)


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM. Raises CheckpointError or SamError if the SAM's weights are not there."""
    checkpoints.needed(settings.sam, settings.home / "checkpoints")
    Server(settings, host, port).run()
