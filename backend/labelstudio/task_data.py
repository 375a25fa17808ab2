"""Where a task's data has the address of its picture, and how a browser reads that address."""

import re
from collections.abc import Mapping
from typing import Any

UNDEFINED = "$undefined$"  # Label Studio's key for a file that came before the configuration named a field
STEP = re.compile(r"""[^.\[\]]+|\[(?:(-?[0-9]+)|(["'])(.*?)\2)\]""")
# https://url.spec.whatwg.org/#concept-basic-url-parser: what is cut off both ends, and what is dropped everywhere.
ENDS = "".join(map(chr, range(0x21)))
DROPPED = str.maketrans("", "", "\t\n\r")


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
    found: Any = data if steps else None
    for step in steps:
        key = step[1] or (step[3] if step[2] else step[0])
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            found = None
            break
    return data.get(UNDEFINED) if found is None else found


def browser_address(text: str) -> str:
    """An address without the white space around it and the line ends in it, as a browser reads it."""
    return text.strip(ENDS).translate(DROPPED)
