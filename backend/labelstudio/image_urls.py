"""URLs of the images of a task."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import Labeling, Output

UNDEFINED = "$undefined$"  # Label Studio's key for a file that came before the configuration named a field
STEP = re.compile(r"""[^.\[\]]+|\[(?:(-?[0-9]+)|(["'])(.*?)\2)\]""")
# https://url.spec.whatwg.org/#concept-basic-url-parser: what is cut off both ends, and what is dropped everywhere.
TRIMMED = "".join(map(chr, range(0x21)))
REMOVED = str.maketrans("", "", "\t\n\r")
# Schemes of the cloud storages that Label Studio 1.23.2 resolves.
CLOUD = ("s3://", "gs://", "azure-blob://")
RESOLVED = re.compile(r"(?:https?://[^/?#]+)?(?:/[^?#]*)?/tasks/[0-9]+/(?:resolve|presign)/\?fileuri=([\w=-]+)")


def label_studio_path(url: str, task: object) -> str:
    """Return the path at which Label Studio hands out a task's file in cloud storage; any other address as it is.

    `url` is a cloud URI, as Label Studio sends it to ML backends, or the address of the same endpoint on whatever
    host Label Studio believes to be, as it lists it elsewhere: both give the same path. The endpoint, of the task,
    answers with the content or with a redirect to a presigned address (Label Studio's io_storages/proxy_api.py).
    `task` is its id; anything but a number leaves the address as it is.
    """
    resolved = RESOLVED.fullmatch(url)
    if not isinstance(task, int) or not (resolved or url.lower().startswith(CLOUD)):
        return url
    file_uri = resolved[1] if resolved else base64.urlsafe_b64encode(url.encode()).decode()
    return f"/tasks/{task}/resolve/?fileuri={file_uri}"


def image_url(task: dict[str, Any], source: Labeling | Output, index: int | None = None) -> str:
    """The URL of the image that is learned from, or of that of a control; of the `index`-th where it has several.

    Raises BadRequest if there is none.
    """
    data = task.get("data")
    value = value_at(data, source.data_key)
    if isinstance(value, list):
        value = value[index or 0] if 0 <= (index or 0) < len(value) else None
    if not isinstance(value, str) or not (value := browser_address(value)):
        raise BadRequest(f"task {task.get('id')} has no image address in data[{source.data_key!r}]")
    return label_studio_path(value, task.get("id"))


def image_urls(task: dict[str, Any], labeling: Labeling) -> list[str]:
    """The URLs of all images of a task that can be clicked on, in the order of the configuration, each once."""
    data = task.get("data")
    urls: dict[str, None] = {}
    for output in labeling.outputs:
        value = value_at(data, output.data_key)
        for index in range(len(value) if isinstance(value, list) else 1):
            with suppress(BadRequest):
                urls[image_url(task, output, index)] = None
    return list(urls)


def value_at(data: Any, path: str) -> Any:
    """What a task's data has at the path of an object tag's `value`, without its `$`; None if there is nothing.

    A path has dots and brackets, `meta.url`, `images[0].url`; the editor looks it up by lodash's `get`, which takes a
    key of just this name first: https://lodash.com/docs/#get
    """
    if not isinstance(data, Mapping):
        return None
    if path in data:
        return data[path]
    steps = list(STEP.finditer(path))
    value: Any = data if steps else None
    for step in steps:
        key = step[1] or (step[3] if step[2] else step[0])
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = None
            break
    return data.get(UNDEFINED) if value is None else value


def browser_address(text: str) -> str:
    """A URL without the white space around it and the line ends in it, as a browser reads it."""
    return text.strip(TRIMMED).translate(REMOVED)
