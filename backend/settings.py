"""The settings of one Skylight: a frozen `Settings`, read once from the environment and passed in.

Nothing else in the project reads environment variables. Each field carries its variable's name, its default, its
meaning (with unit and range) and its parser; the documentation and `skylight settings` are made from
`Settings.table()`. Why not by pydantic: docs/decisions/settings.md.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from skylight.backend import setting_parsers as parsers
from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import ConfigError
from skylight.backend.setting_parsers import redact_url

PREFIX = "SKYLIGHT_"
MEGABYTE = 2**20  # what "MB" means below
ACCEPTED = ("submitted", "ground_truth", "reviewed")
CONSENSUS = ("newest", "majority")
PRECISIONS = ("auto", "float32")  # as `skylight.model.sam.precision.PRECISIONS`
OUTPUTS = ("brush", "bitmask", "polygon", "vector", "rectangle")
LOG_FORMATS = ("auto", "text", "json")


class Variable(NamedTuple):
    """One row of `Settings.table()`: field of `Settings`, environment variable, default as text, meaning."""

    field: str
    env: str
    default: str
    help: str


def _variable(env: str, default: str, help: str, parse: Callable[[str], Any]) -> Any:
    """A dataclass field whose default is `default` after parsing ("" stays "", the mark of an unset text)."""
    meta = {"env": env, "default": default, "help": help, "parse": parse}
    return field(default=parse(default) if default else "", metadata=meta)


@dataclass(frozen=True, repr=False)
class Settings:
    """All settings of one Skylight process; the defaults work on one machine with nothing set."""

    label_studio_url: str = _variable(
        "LABEL_STUDIO_URL",
        "",
        "address of Label Studio, http:// or https://; unset: only clicks on public images work",
        parsers.url("http", "https", credentials=False),
    )
    label_studio_api_key: str = _variable(
        "LABEL_STUDIO_API_KEY", "", "Label Studio's personal access token, or a legacy token", parsers.text
    )
    redis_url: str = _variable(
        "REDIS_URL",
        "",
        "Redis 6.0 or newer, or Valkey; unset: one is started inside",
        parsers.redis_url,
    )
    home: Path = _variable(
        "SKYLIGHT_HOME",
        "~/.skylight",
        "folder for weights, embeddings, samples, versions; or s3://bucket/prefix",
        parsers.home,
    )
    copy: Path = _variable(
        "SKYLIGHT_COPY",
        "~/.cache/skylight",
        "where SKYLIGHT_HOME is in a bucket: folder of this machine for copies, weights, and what is in flight",
        parsers.folder,
    )
    sam: str = _variable("SKYLIGHT_SAM", "tiny", "name of the SAM checkpoint", parsers.text)
    device: str = _variable("SKYLIGHT_DEVICE", "auto", "auto, cpu, mps, cuda or cuda:<number>", parsers.device)
    precision: str = _variable(
        "SKYLIGHT_PRECISION",
        "auto",
        "auto: SAMs but the tiny one encode in half precision where that is quicker; float32: nowhere, so that "
        "machines with and without a GPU share their embeddings",
        parsers.one_of(*PRECISIONS),
    )
    checkpoint_url: str = _variable(
        "SKYLIGHT_CHECKPOINT_URL",
        "",
        "base URL of a mirror for checkpoints",
        parsers.url("http", "https", "file"),
    )
    threads: int = _variable(
        "SKYLIGHT_THREADS",
        "8",
        "clicks and batches worked on at the same time, 1 to 256",
        parsers.integer(1, 256),
    )
    workers: int = _variable(
        "SKYLIGHT_WORKERS", "1", "processes that train and pre-annotate, 0 to 64", parsers.integer(0, 64)
    )
    min_annotations: int = _variable(
        "SKYLIGHT_MIN_ANNOTATIONS",
        "3",
        "accepted annotations before the first training, 1 to 1000000",
        parsers.integer(1, 10**6),
    )
    retrain_every: int = _variable(
        "SKYLIGHT_RETRAIN_EVERY",
        "1",
        "annotations that are new, changed or withdrawn before the next training, 1 to 1000000",
        parsers.integer(1, 10**6),
    )
    reconcile_minutes: int = _variable(
        "SKYLIGHT_RECONCILE_MINUTES",
        "5",
        "how often the projects are compared with Label Studio, which repeats no event, minutes, 0 to 1440; 0: only at "
        "a start and before a training",
        parsers.integer(0, 1440),
    )
    keep_predictions: int = _variable(
        "SKYLIGHT_KEEP_PREDICTIONS",
        "24",
        "how long the predictions of earlier versions are kept in Label Studio, hours, 1 to 8760: until then an editor "
        "that was opened with one can submit",
        parsers.integer(1, 8760),
    )
    accept: str = _variable(
        "SKYLIGHT_ACCEPT",
        "submitted",
        "which annotations are learned from: submitted (all that are not skipped), ground_truth (those marked so) or "
        "reviewed (those a reviewer has accepted, where Label Studio has reviews)",
        parsers.one_of(*ACCEPTED),
    )
    consensus: str = _variable(
        "SKYLIGHT_CONSENSUS",
        "newest",
        "what is learned from a task with several annotations: newest, or the majority at each pixel, without ties",
        parsers.one_of(*CONSENSUS),
    )
    memory_mb: int = _variable(
        "SKYLIGHT_MEMORY_MB",
        "64",
        "embeddings kept in memory, MB (2^20 bytes), 0 to 1048576",
        parsers.integer(0, 2**20),
    )
    disk_mb: int = _variable(
        "SKYLIGHT_DISK_MB",
        "20000",
        "embeddings kept in SKYLIGHT_HOME, MB (2^20 bytes), 0 to 1000000000; beyond, those not used for longest are "
        "deleted, and made again when needed; 0: all are kept",
        parsers.integer(0, 10**9),
    )
    max_pixels: int = _variable(
        "SKYLIGHT_MAX_PIXELS",
        "100000000",
        "largest image accepted, pixels, 1 to 10000000000",
        parsers.integer(1, 10**10),
    )
    max_body_mb: int = _variable(
        "SKYLIGHT_MAX_BODY_MB",
        "64",
        "largest request accepted, MB (2^20 bytes), 1 to 4096; to be read it may take fifteen times that of memory",
        parsers.integer(1, 4096),
    )
    tile: int = _variable(
        "SKYLIGHT_TILE",
        "0",
        "side of the tiles that larger pictures are looked at in, pixels, 256 to 16384; 0: twice the SAM's input side",
        parsers.tile_side,
    )
    min_area: int = _variable(
        "SKYLIGHT_MIN_AREA",
        "64",
        "smallest pre-annotated region, pixels, 1 to 100000000",
        parsers.integer(1, 10**8),
    )
    refine: bool = _variable(
        "SKYLIGHT_REFINE",
        "off",
        "on or off: ask SAM about each pre-annotated region too, and keep the sharper mask if both agree",
        parsers.switch,
    )
    output: str = _variable(
        "SKYLIGHT_OUTPUT",
        "",
        "kind of region preferred where the configuration has several: brush, bitmask, polygon, vector or rectangle; "
        "unset: the first of these",
        parsers.one_of(*OUTPUTS),
    )
    avoid_overlap: bool = _variable(
        "SKYLIGHT_AVOID_OVERLAP",
        "off",
        "on or off: cut a click's mask where the task has another of the same label",
        parsers.switch,
    )
    log_level: str = _variable("SKYLIGHT_LOG_LEVEL", "INFO", ", ".join(parsers.LOG_LEVELS), parsers.log_level)
    log_format: str = _variable(
        "SKYLIGHT_LOG_FORMAT",
        "auto",
        "text: sentences; json: an object a line; auto: text on a terminal, else json",
        parsers.one_of(*LOG_FORMATS),
    )
    webhook_secret: str = _variable(
        "SKYLIGHT_WEBHOOK_SECRET",
        "",
        "what Label Studio's webhooks must carry, 16 to 200 characters; unset: one is made and kept in SKYLIGHT_HOME",
        parsers.webhook_secret,
    )
    user: str = _variable(
        "SKYLIGHT_USER",
        "",
        "user whom everything but /health and /ready asks for, with SKYLIGHT_PASSWORD",
        parsers.user,
    )
    password: str = _variable("SKYLIGHT_PASSWORD", "", "that user's password, 8 to 200 characters", parsers.password)
    allowed_hosts: HostList = _variable(
        "SKYLIGHT_ALLOWED_HOSTS",
        "*",
        "hosts beside Label Studio that pictures may come from, separated by commas: host or host:port, at whatever "
        "address; *.example.org, those below it, or *, any, at public addresses; none",
        HostList.parse,
    )
    trusted_hosts: HostList = _variable(
        "SKYLIGHT_TRUSTED_HOSTS",
        "none",
        "names by which the page may be called beside localhost, IP addresses and this machine's own, separated by "
        "commas: host or host:port; *.example.org, those below it; *, any; none: with SKYLIGHT_USER set, any",
        HostList.parse,
    )
    bucket: str = ""  # address of the bucket that SKYLIGHT_HOME names; `home` is then the folder for copies

    def __post_init__(self) -> None:
        """Raise ConfigError where only one of user and password is set: nobody could come in, or everybody."""
        if bool(self.user) != bool(self.password):
            there, missing = ("USER", "PASSWORD") if self.user else ("PASSWORD", "USER")
            raise ConfigError(f"SKYLIGHT_{there} is set and SKYLIGHT_{missing} is not; set both, or neither.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from `environ`; a variable that is empty counts as unset.

        Raises `ConfigError` for a `SKYLIGHT_*` variable that does not exist, naming the nearest one that
        does, and for a value that cannot be used, naming the variable and the value (passwords left out).
        """
        _refuse_unknown(environ)
        values: dict[str, Any] = {}
        for variable in _variables():
            text = environ.get(variable.metadata["env"], "").strip()
            if not text:
                continue
            try:
                values[variable.name] = variable.metadata["parse"](text)
            except ValueError as error:
                meaning = variable.metadata["help"]
                raise ConfigError(f"{variable.metadata['env']}: {error}; it means: {meaning}.") from None
        if isinstance(home := values.get("home"), str):
            values["bucket"], values["home"] = home, _copy_folder(values)
        return cls(**values)

    @classmethod
    def table(cls) -> tuple[Variable, ...]:
        """Return one `Variable` per field, in the order of the fields, for help texts and docs/settings.md."""
        return tuple(
            Variable(f.name, f.metadata["env"], f.metadata["default"], f.metadata["help"]) for f in _variables()
        )

    def __repr__(self) -> str:
        """All fields, but `***` for the keys and for passwords in URLs: it may be logged."""
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("label_studio_api_key", "webhook_secret", "password"):
            shown[name] = "***" if shown[name] else ""
        for name in ("redis_url", "checkpoint_url", "label_studio_url"):
            shown[name] = redact_url(shown[name])
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _variables() -> list[Field[Any]]:
    """The fields that are read from the environment."""
    return [variable for variable in fields(Settings) if "env" in variable.metadata]


def _copy_folder(values: Mapping[str, Any]) -> Path:
    """The folder of this machine beside a bucket.

    Raises ConfigError without the package that reads buckets, or the secret that all machines must share.
    """
    if not values.get("webhook_secret"):
        raise ConfigError("SKYLIGHT_HOME is in a bucket, so set SKYLIGHT_WEBHOOK_SECRET, the same on all machines.")
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError(
            "SKYLIGHT_HOME is in a bucket; install what that needs: pip install 'label-studio-skylight[s3]'"
        )
    folder: Path = values.get("copy", Settings().copy)
    return folder.absolute()


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = [variable.metadata["env"] for variable in _variables()]
    ours = [name for name in known if name.startswith(PREFIX)]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in ours:
            nearest = difflib.get_close_matches(name, ours, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{name} is not a setting of Skylight. Did you mean {nearest}? Rename or unset it.")
