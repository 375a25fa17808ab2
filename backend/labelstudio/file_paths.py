"""Which paths of Label Studio hand out files: only these are asked for with its key, and none that climbs out."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

# As of Label Studio 1.23.2, below the path at which it is served.
FILES = re.compile(r"/(?:data/.+|storage-data/.+|(?:tasks|projects)/[0-9]+/(?:resolve|presign)/)")
ROUNDS = 4  # of percent-encoding that are looked through


def serves_files(url: str, home: str) -> bool:
    """Whether an address of Label Studio's origin, `home` being where it is served, is one of a file."""
    path, prefix = urlsplit(url).path, urlsplit(home).path
    return path.startswith(prefix) and bool(FILES.fullmatch(path[len(prefix) :]))


def has_path_traversal(url: str) -> bool:
    """Whether a path or a query goes up a folder or holds what no file's name does, however often it is encoded."""
    for _ in range(ROUNDS):
        if any(part == ".." for part in re.split(r"[/\\?&=;#]", url)) or re.search(r"[\x00-\x1f\x7f]", url):
            return True
        decoded = unquote(url)
        if decoded == url:
            return False
        url = decoded
    return True
