"""Limits of one request; an error beyond one says which limit, how much came, and what to do.

Limits of masks are where masks are decoded: `skylight.model.masks.brush_rle`,
`skylight.model.masks.bitmask`, `skylight.model.images.decoding`.
"""

import re
from typing import Any

from skylight.backend.errors import BadRequest

MACHINE = "*"  # in place of a project, for what belongs to none

MAX_DEPTH = 64  # lists and objects in each other; Label Studio's bodies have at most 10
MAX_TASKS = 100_000  # of one /predict; Label Studio sends all that were selected in one, some 700 bytes of memory each
MAX_CLICKED = 1  # tasks of a /predict with a prompt; each is a run of SAM's mask decoder
MAX_PROMPTS = 256  # points and boxes of one prompt; each is a token that SAM's decoder attends to
MAX_REGIONS = 10_000  # of one annotation; each is a mask of the image's size while it is read
# Regions of one pre-annotation, the surest ones: the editor unpacks 4 bytes a pixel of each brush or bitmask, 4 MB at
# 1024 px. A picture larger than a tile has more of them, and is to have polygons; the editor shows no more than these.
MAX_ANSWERED = 1000
MAX_ANSWERED_LARGE = 5000
# Characters of brushes and bitmasks, which are each of the whole picture, in one pre-annotation, or in an annotation
# that is imported. A brush in 20,000 x 20,000 px has 82,503 numbers: 0.66 MB as a list, 0.30 MB as JSON.
MAX_CHARACTERS = 64_000_000
MAX_SIDE = 1_000_000  # pixels of an image's side, as a region says it; formats end at 65,535 or nearby
MAX_CONFIG = 1_000_000  # characters of a labeling configuration; 254 labels take some 25,000
MAX_XML_DEPTH = 100  # tags in each other; Label Studio's own templates have at most 8
MAX_TAGS = 5_000  # of a labeling configuration; a long list of choices has some hundred
MAX_NAMES = 2_000  # labels of all controls for masks, by all their names, which are compared with each other
MAX_ID = 2**63 - 1  # Label Studio's ids are 64-bit; a longer number would not be a file's name
PROJECT = re.compile(r"(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,11})")  # how Label Studio calls one: see `project_name`
FOLDER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")  # how a project's folder may be called: earlier releases took
# any such name from a /setup

Container = (dict, list)


def check_depth(body: Any) -> None:
    """Raise BadRequest if lists and objects are nested deeper than `MAX_DEPTH`: later readers do it by recursion."""
    level = [body]
    for _ in range(MAX_DEPTH):
        children = [item.values() if type(item) is dict else item for item in level]
        level = [child for items in children for child in items if type(child) in Container]
        if not level:
            return
    raise BadRequest(f"the body has lists or objects more than {MAX_DEPTH} deep in each other; send it flatter")


def check_predict(tasks: list[Any], context: dict[str, Any] | None) -> None:
    """Raise BadRequest for more tasks, or more prompts, than one /predict may bring."""
    if len(tasks) > MAX_TASKS:
        raise BadRequest(f"{len(tasks)} tasks in one /predict are more than {MAX_TASKS}; select fewer")
    prompts = context.get("result") if context else None
    if not prompts:
        return
    if len(tasks) > MAX_CLICKED:
        raise BadRequest(f"a prompt is for {MAX_CLICKED} task, not for {len(tasks)}; ask for one after the other")
    if isinstance(prompts, list) and len(prompts) > MAX_PROMPTS:
        raise BadRequest(f"{len(prompts)} prompts are more than {MAX_PROMPTS}; remove some points")


def check_config(label_config: str) -> None:
    """Raise BadRequest if a labeling configuration is too long to be kept."""
    if len(label_config) > MAX_CONFIG:
        raise BadRequest(
            f"the labeling configuration has {len(label_config)} characters, more than {MAX_CONFIG}; shorten it"
        )


def project_name(value: Any) -> str:
    """The name of a project in Label Studio's calls to an ML backend: "<id>.<second of its creation>".

    Every name that comes from outside goes through here. Raises BadRequest for any other form.
    """
    if not value:
        raise BadRequest("'project' is missing")
    if not isinstance(value, str) or not PROJECT.fullmatch(value):
        raise BadRequest(
            f"{str(value)[:80]!r} is no project of Label Studio's; they are called <id>.<second of their creation>, "
            "as '1.1795340435'"
        )
    return value


def checked_id(value: Any) -> int:
    """The id of a task or an annotation. Raises ValueError unless it is a whole number from 0 to `MAX_ID`."""
    number = int(value)
    if not 0 <= number <= MAX_ID:
        raise ValueError(f"{str(value)[:40]} is no id, which are whole numbers from 0 to {MAX_ID}")
    return number
