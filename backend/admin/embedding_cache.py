"""`skylight cache`: a report about the embeddings on disk, and deleting some of them."""

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from skylight.backend.errors import BadRequest
from skylight.backend.images.large_images import KEPT_BYTES
from skylight.backend.settings import MEGABYTE, Settings
from skylight.backend.store.disk_space import free_bytes
from skylight.model.sam import checkpoints, loading
from skylight.model.sam.checkpoints import CheckpointError
from skylight.model.storage import lru_folder


def folder(settings: Settings) -> Path:
    """The folder of the embeddings of all SAMs."""
    return settings.home / "embeddings"


def in_use(settings: Settings) -> str:
    """The encoder id of the configured SAM, "" if its checkpoint is not there."""
    try:
        file = checkpoints.required_file(settings.sam, settings.home / "checkpoints")
        return loading.identify_on(settings.sam, file, settings.device, settings.precision)
    except (CheckpointError, OSError):
        return ""


def report(settings: Settings) -> Iterator[str]:
    """Lines of text: each encoder's images, MB and times of use; the sum, the large images, and the free space."""
    embeddings, current = folder(settings), in_use(settings)
    rows = lru_folder.usage_by_encoder(embeddings)
    if rows:
        width = max(len(row.encoder_id) for row in rows)
        yield f"{'encoder':{width}}  {'images':>8}  {'MB':>9}  {'oldest use':16}  {'newest use':16}"
    for row in rows:
        mark = "  in use" if row.encoder_id == current else ""
        what = f"{row.encoder_id:{width}}  {row.files:8}  {row.size / MEGABYTE:9.1f}"
        yield f"{what}  {_time(row.oldest)}  {_time(row.newest)}{mark}"
    size, files = sum(row.size for row in rows), sum(row.files for row in rows)
    limit = f"of at most {settings.disk_mb} MB" if settings.disk_mb else "and no limit"
    yield f"{embeddings}: {files} images, {size / MEGABYTE:.1f} MB {limit} (SKYLIGHT_DISK_MB)"
    pictures = [path.stat().st_size for path in (settings.home / "pictures").glob("**/*") if path.is_file()]
    if pictures:
        used = f"{sum(pictures) / MEGABYTE:.1f} MB of at most {KEPT_BYTES / MEGABYTE:.0f} MB"
        yield f"{settings.home}/pictures: {len(pictures)} large pictures, {used}"
    yield f"{free_bytes(embeddings) / MEGABYTE:.0f} MB are free on this disk"


def trim(settings: Settings, megabytes: int) -> str:
    """Delete the least recently used embeddings until `megabytes` are left; returns what was done, in words."""
    evicted, size, left = lru_folder.evict(folder(settings), megabytes * MEGABYTE, protected=0)
    return f"deleted {evicted} embeddings, {size / MEGABYTE:.1f} MB; {left / MEGABYTE:.1f} MB are left"


def clear(settings: Settings, encoder_id: str) -> str:
    """Delete all embeddings of an encoder; returns what was done, in words.

    Raises BadRequest if there are none, or if it is the one in use: processes write to its folder.
    """
    rows = {row.encoder_id: row for row in lru_folder.usage_by_encoder(folder(settings))}
    if encoder_id not in rows:
        raise BadRequest(f"there are no embeddings of {encoder_id!r}, only of: {', '.join(rows) or 'no encoder'}")
    if encoder_id == in_use(settings):
        raise BadRequest(f"{encoder_id} is in use (SKYLIGHT_SAM={settings.sam}); --trim makes room of its embeddings")
    shutil.rmtree(folder(settings) / encoder_id)
    row = rows[encoder_id]
    return f"deleted all of {encoder_id}: {row.files} embeddings, {row.size / MEGABYTE:.1f} MB"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"
