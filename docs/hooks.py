"""MkDocs hooks: pages from outside of docs/, and links to files of the repository.

On GitHub a link such as `../backend/limits.py` opens the file. The site has no such files, so a link to one of `PAGES`
leads to the page made of it, and any other link out of docs/ becomes its text. A file that does not exist is a
warning, which fails a strict build.
"""

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "model/weights/README.md": "model-card.md",
}
"""File of the repository -> page of the site."""
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each of `PAGES`."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite the links of a page."""
    uri = page.file.src_uri
    source = {made: f for f, made in PAGES.items()}.get(uri, f"docs/{uri}")
    return LINK.sub(lambda link: rewritten(link, source, uri), markdown)


def rewritten(link: re.Match[str], source: str, page: str) -> str:
    """A link of the repository's file `source` as it has to be on the site's `page`."""
    target = link["target"]
    if "://" in target or target.startswith(("mailto:", "/")):
        return link[0]
    path = os.path.normpath(PurePosixPath(source).parent / target)
    inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    if inside:
        return f"{link['text']}({os.path.relpath(inside, PurePosixPath(page).parent)}{link['anchor'] or ''})"
    if not (ROOT / path).exists():
        log.warning("%s has a link to %s, which does not exist", source, path)
    return link["text"].strip("![]")
