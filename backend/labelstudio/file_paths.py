"""Paths of Label Studio that serve files: only these are requested with its key, and none that leads upwards."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

# As of Label Studio 1.23.2, below the path at which it is served.
FILE_PATHS = re.compile(r"/(?:data/.+|storage-data/.+|(?:tasks|projects)/[0-9]+/(?:resolve|presign)/)")
MAX_DECODINGS = 4  # of percent-encoding


def serves_files(url: str, home: str) -> bool:
    """Whether a URL of Label Studio's origin is one of a file; `home` is the URL at which it is served."""
    path, prefix = urlsplit(url).path, urlsplit(home).path
    return path.startswith(prefix) and bool(FILE_PATHS.fullmatch(path[len(prefix) :]))


def has_path_traversal(url: str) -> bool:
    """Whether a path or query has `..` or control characters in it, however often it is percent-encoded."""
    for _ in range(MAX_DECODINGS):
        if any(part == ".." for part in re.split(r"[/\\?&=;#]", url)) or re.search(r"[\x00-\x1f\x7f]", url):
            return True
        decoded = unquote(url)
        if decoded == url:
            return False
        url = decoded
    return True
