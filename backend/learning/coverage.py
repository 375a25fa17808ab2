"""How many of a project's images are embedded: a click on one of those is answered at once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from skylight.backend.errors import LabelStudioError, SkylightError
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.image_urls import image_urls
from skylight.backend.labelstudio.task_listing import TaskSummary
from skylight.backend.service import Service

TASKS = 2000  # looked at, at most: twenty pages of Label Studio's list, once a minute while somebody looks


@dataclass(frozen=True)
class Readiness:
    """What Label Studio says of a project: `ready` of `images` are embedded, among the first tasks or all."""

    title: str
    tasks: int
    ready: int
    images: int
    whole: bool


def readiness(service: Service, project: str) -> Readiness:
    """Look through a project's tasks. Raises LabelStudioError if Label Studio cannot be asked, or has it no more."""
    client, number = service.labelstudio, int(project.partition(".")[0])
    if client is None:
        raise LabelStudioError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to see how many images are ready")
    response = client.project(number)
    if project_key(response) != project:
        raise LabelStudioError(f"Label Studio's project {number} is another one now; {project} is gone")
    urls = list(clickable_urls(islice(client.tasks(number), TASKS), service, project))
    ready = sum(map(readiness_test(service, project), urls))
    tasks = int(response.get("task_number") or 0)
    return Readiness(str(response.get("title") or ""), tasks, ready, len(urls), tasks <= TASKS)


def clickable_urls(tasks: Iterable[TaskSummary], service: Service, project: str) -> Iterator[str]:
    """The URLs of all images of some tasks that can be clicked on; none if the configuration cannot be served."""
    try:
        labeling = service.labeling(service.store.config(project))
    except SkylightError:
        return
    for task in tasks:
        yield from image_urls({"id": task.id, "data": task.data}, labeling)


def readiness_test(service: Service, project: str, samples: bool = True) -> Callable[[str], bool]:
    """A function that tells whether the image last seen at an address has been embedded by the SAM in use, as the
    project has it seen.

    No image and no embedding is read for it. With `samples` the project's are looked at too: they also know the
    addresses that were fetched before the store had `addresses`.
    """
    learned = {record.url: record.image for record in service.store.samples(project)} if samples else {}
    how = service.normalizations.of(project)

    def ready(url: str) -> bool:
        digest = learned.get(url) or service.url_index.digest(url)
        embedder = service.embedder.with_normalization(how)
        return bool(digest) and embedder.cache.has(embedder.cache_key(digest))

    return ready
