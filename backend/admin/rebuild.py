"""`skylight rebuild`: restores what Redis held, after its data were lost, from the store and Label Studio."""

from collections.abc import Iterator

from skylight.backend.errors import LabelStudioError, SkylightError
from skylight.backend.labelstudio.events import project_key
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.queue import recovery
from skylight.backend.queue.inbox import replay
from skylight.backend.queue.keys import PROJECTS
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service


def rebuild(service: Service) -> Iterator[str]:
    """Restore every project in Redis, and every annotation in the store; yields what was done, in lines of text.

    Nothing is done twice: where nothing is missing it only says so. The versions, which of them is current, and the
    samples are files of the store and were not lost. Raises redis.RedisError while Redis is away.
    """
    replay(service.queue, service.spool)
    yield from _find_connected(service)
    projects = service.store.projects()
    known = service.queue.projects()
    recovery.recover(service.queue, projects)
    for project in sorted({*projects, *known}):
        yield _restore(service, project, project in known)
    if not projects and not known:
        yield "there is no project, neither in the store nor in Redis nor in Label Studio with this Skylight's webhook"


def _find_connected(service: Service) -> Iterator[str]:
    """Save the configuration of each project of Label Studio that the store lacks and whose webhook has our secret."""
    if service.labelstudio is None:
        yield "Label Studio is not asked: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"
        return
    try:
        for listed in service.labelstudio.projects():
            project = project_key(listed)
            if service.store.config(project):
                continue
            hooks = service.labelstudio.webhooks(int(listed["id"]))
            if any(service.secret.matches((hook.get("headers") or {}).get(HEADER)) for hook in hooks):
                service.store.save_config(project, str(listed["label_config"]))
                service.secret.require(project)
                yield f"project {project} was found in Label Studio by its webhook"
    except LabelStudioError as error:
        yield f"Label Studio is not asked: {error}"


def _restore(service: Service, project: str, known: bool) -> str:
    store, queue = service.store, service.queue
    queue.redis.sadd(PROJECTS, project)
    try:
        changed = reconcile(service, project, whole=True)
        comparison = f"{changed} samples changed by Label Studio" if service.labelstudio else "not compared"
    except SkylightError as error:
        changed, comparison = 0, str(error)
    if changed:
        queue.mark_dirty(project)
    current = service.versions.current(project)
    parts = [
        "known to Redis" if known else "made known to Redis again",
        "its configuration is there" if store.config(project) else "its configuration will come with the next event",
        f"{store.count(project)} samples, {comparison}",
        f"version {current} is served" if current else "no version is served",
        "a worker looks through it" if queue.dirty(project) > queue.trained(project) else "nothing is left to train",
    ]
    return f"project {project}: {'; '.join(parts)}"
