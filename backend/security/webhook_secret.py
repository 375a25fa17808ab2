"""The secret that Label Studio's webhooks carry in a header: the basic auth of an ML backend does not come with them.

Of a project whose webhook is known to carry it (`skylight connect` has set it, or it has come once), annotation events
without it are refused. Before that they are accepted: a backend that was connected by hand has a webhook without it.
"""

import errno
import functools
import hashlib
import hmac
import secrets

from skylight.backend.security.key_file import load_or_create_key
from skylight.backend.settings import Settings
from skylight.model.storage.file_store import FileStore

HEADER = "X-Skylight-Secret"


class WebhookSecret:
    """The secret of one Skylight: `SKYLIGHT_WEBHOOK_SECRET`, or one made once and kept in `SKYLIGHT_HOME`.

    Nothing is read or written before it is asked for; then OSError is raised if `SKYLIGHT_HOME` cannot be written.
    """

    def __init__(self, settings: Settings, files: FileStore) -> None:
        self._given = settings.webhook_secret
        self._home = settings.home
        self._files = files

    @functools.cached_property
    def value(self) -> str:
        """The secret itself."""
        return self._given or load_or_create_key(self._home / "webhook-secret", secrets.token_urlsafe)

    @property
    def instance(self) -> str:
        """A public name of this Skylight, 16 hex digits, by which `doctor` tells it from another: a hash of the
        secret.
        """
        return hmac.new(self.value.encode(), b"skylight instance", hashlib.sha256).hexdigest()[:16]

    @property
    def headers(self) -> dict[str, str]:
        """What a webhook has to send along."""
        return {HEADER: self.value}

    def matches(self, given: str | None) -> bool:
        """Whether it is the secret; takes as long for any wrong one.

        Nothing is where none could be made yet, as the disk is full or read-only: no webhook carries it then.
        """
        try:
            value = self.value
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                return False
            raise
        return hmac.compare_digest((given or "").encode(), value.encode())

    def require(self, project: str) -> None:
        """From now on the project's events must carry it. `project` is a key such as `1.1795340435`."""
        if not self.is_required(project):
            self._files.write(_mark(project), b"")

    def is_required(self, project: str) -> bool:
        """Whether the project's events must carry it."""
        return self._files.exists(_mark(project))

    def forget(self, project: str) -> None:
        """The project is forgotten."""
        self._files.delete(_mark(project))


def _mark(project: str) -> str:
    """The name of the file whose existence says that a project's webhook carries the secret."""
    return f"signed/{project}"
