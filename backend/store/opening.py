"""Opens the store that the settings name: a folder, or a bucket with copies on this machine."""

from skylight.backend.settings import MEGABYTE, Settings
from skylight.model.storage.file_store import FileStore, FolderStore


def open_files(settings: Settings) -> FileStore:
    """All files under SKYLIGHT_HOME that processes and machines share."""
    if not settings.bucket:
        return FolderStore(settings.home)
    from skylight.backend.store.bucket import BucketStore  # needs the extra `s3`

    return BucketStore(settings.bucket, settings.home, settings.disk_mb * MEGABYTE)
