"""A local Label Studio as a child process, for the demo and for end-to-end tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import requests

from skylight.backend.errors import ConfigError, Unavailable
from skylight.backend.process.ports import is_free

READY_SECONDS = 600.0  # that a start may take; the first one makes the database, which takes minutes on a busy machine
STOP_SECONDS = 10.0  # from SIGTERM to SIGKILL
POLL_SECONDS = 0.5
LOG_LINES = 30  # that are quoted when it does not start

Progress = Callable[[float, str], None]  # takes the seconds passed and the last line of the log, twice a second


class LabelStudioServer:
    """Label Studio from `executable` (its `label-studio` script) on 127.0.0.1:`port`, all data in `data_dir`.

    An empty folder makes a new instance with one user, who also has `token` as legacy token (40 hex digits); a used one
    goes on with what it holds. Nothing is inherited from the environment, no browser is opened, no statistics are sent,
    and both of its guards against local addresses are off, so that it can call an ML backend here; `variables` change
    its environment. A context manager: entering starts it and waits until it is ready.
    """

    def __init__(
        self,
        executable: Path,
        data_dir: Path,
        port: int,
        username: str,
        password: str,
        token: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.executable = executable.absolute()
        self.data_dir = data_dir.absolute()
        self.port = port
        self.username = username
        self.password = password
        self.token = token
        self.variables = dict(variables or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, without trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The file that takes all its output; a new start appends."""
        return self.data_dir / "label-studio.log"

    def start(self) -> None:
        """Start the process and return at once.

        Raises `ConfigError` if the executable is not there, and `Unavailable` if the port is in use (Label
        Studio itself would silently take the next one) or this server runs already.
        """
        if self._process is not None:
            raise Unavailable(f"Label Studio at {self.url} has been started already; stop it first.")
        if not self.executable.is_file():
            raise ConfigError(f"There is no Label Studio at {self.executable}; install it or name its script.")
        if not is_free(self.port):
            raise Unavailable(f"Port {self.port} on 127.0.0.1 is in use; stop what uses it or take another.")
        (self.data_dir / "local").mkdir(parents=True, exist_ok=True)
        command = [str(self.executable), "start", "--no-browser", "--data-dir", str(self.data_dir)]
        command += ["--port", str(self.port), "--internal-host", "127.0.0.1"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, progress: Progress | None = None, timeout: float = READY_SECONDS) -> float:
        """Wait until it answers and return the seconds that took.

        Raises `Unavailable`, with the end of the log, if it ends by itself or is not ready in `timeout`
        seconds.
        """
        if self._process is None:
            raise Unavailable("Label Studio has not been started; call start() first.")
        began = time.monotonic()
        with requests.Session() as session:
            session.trust_env = False  # a proxy must not stand between two processes of one machine
            while True:
                passed = time.monotonic() - began
                if self._process.poll() is not None:
                    raise Unavailable(f"Label Studio ended with {self._process.returncode}.\n{self._tail()}")
                if self._answers(session):
                    return passed
                if passed > timeout:
                    raise Unavailable(f"Label Studio was not ready after {timeout:.0f} s.\n{self._tail()}")
                if progress is not None:
                    progress(passed, self._tail(1))
                time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Terminate it with its child processes, and kill them after STOP_SECONDS; do nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def __enter__(self) -> LabelStudioServer:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        """Label Studio's whole environment; a legacy token is only read when the database is made."""
        return {
            "PATH": os.pathsep.join((str(self.executable.parent), os.defpath)),
            "HOME": str(self.data_dir),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "LABEL_STUDIO_USERNAME": self.username,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_HOST": self.url,
            "ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            "LOCAL_FILES_SERVING_ENABLED": "true",
            "LOCAL_FILES_DOCUMENT_ROOT": str(self.data_dir / "local"),
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "DJANGO_DB": "sqlite",
            "LOG_LEVEL": "INFO",
            **self.variables,
        }

    def _answers(self, session: requests.Session) -> bool:
        try:
            return session.get(f"{self.url}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def _tail(self, lines: int = LOG_LINES) -> str:
        """The last lines of the log that are not blank."""
        text = self.log.read_bytes()[-20_000:].decode(errors="replace")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
