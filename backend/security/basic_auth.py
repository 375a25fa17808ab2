"""Basic auth of Skylight: `SKYLIGHT_USER` and `SKYLIGHT_PASSWORD`, and how Label Studio stores them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from skylight.backend.settings import Settings

METHOD = "BASIC_AUTH"  # what Label Studio 1.23.2 calls it


@dataclass(frozen=True)
class BasicAuth:
    """A user and a password; without both, nobody is asked."""

    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> BasicAuth:
        """Those of the settings."""
        return cls(settings.user, settings.password)

    def __bool__(self) -> bool:
        """Whether a login is asked for."""
        return bool(self.user and self.password)

    def matches(self, user: str | None, password: str | None) -> bool:
        """Whether both are right, in constant time, whichever is wrong and however long it is."""
        equal = [
            hmac.compare_digest(_digest(given or ""), _digest(own))
            for given, own in ((user, self.user), (password, self.password))
        ]
        return all(equal) and bool(self)

    @property
    def ml_backend_fields(self) -> dict[str, Any]:
        """Fields of an ML backend in Label Studio with this login; empty if no login is asked for.

        They belong to every change of the ML backend: Label Studio first calls it with what that change brings.
        """
        if not self:
            return {}
        return {"auth_method": METHOD, "basic_auth_user": self.user, "basic_auth_pass": self.password}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a webhook where its secret does not count; empty if no login is asked for."""
        if not self:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()}

    def problem(self, row: Mapping[str, Any]) -> str:
        """What is wrong with an ML backend's login as Label Studio lists it, "" if nothing is known to be.

        Label Studio does not list the password; that it is another one shows when the ML backend is called.
        """
        if not self:
            return ""
        if row.get("auth_method") != METHOD or not row.get("basic_auth_user"):
            return "has no user and password"
        if row["basic_auth_user"] != self.user:
            return "has another user than SKYLIGHT_USER"
        if not row.get("basic_auth_pass_is_set"):
            return "has no password"
        if row.get("state") != "CO" and "401" in str(row.get("error_message") or ""):
            return "has another password than SKYLIGHT_PASSWORD"
        return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
