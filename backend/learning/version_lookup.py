"""Finds a trained version by a project's name or number, for commands that work without Label Studio."""

from dataclasses import dataclass
from typing import Any

from skylight.backend.errors import BadRequest, Unavailable
from skylight.backend.limits import project_name
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleStore
from skylight.model.decoder.network import DomainDecoder


@dataclass(frozen=True)
class TrainedVersion:
    """A trained version: its project's name in the store, number, decoder, and card."""

    project: str
    number: int
    decoder: DomainDecoder
    card: dict[str, Any]

    @property
    def name(self) -> str:
        """As Label Studio's predictions carry it."""
        return f"skylight-{self.number}"


def find_project(store: SampleStore, given: str) -> str:
    """The project in the store that is called `given`: its whole name, or Label Studio's number alone.

    Raises BadRequest if there is none, or more than one, or if none can be called so.
    """
    known = store.projects()
    matches = [project for project in known if given in (project, project.partition(".")[0])]
    if given in matches:
        return given
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise BadRequest(f"project {given} may be {' or '.join(matches)}: give the whole name")
    project_name(given if "." in given or not given.isdecimal() else f"{given}.0")
    names = ", ".join(known) or "none"
    raise BadRequest(f"project {given} is not in {store.files.folder}, there: {names}. Is SKYLIGHT_HOME the server's?")


def find_version(service: Service, given: str, number: int | None = None) -> TrainedVersion:
    """A version of the project called `given`, the one that is served if `number` is None.

    Raises BadRequest if there is no such project, Unavailable if there is no such version, or if it was trained on
    another SAM's embeddings than `SKYLIGHT_SAM`'s.
    """
    project = find_project(service.store, given)
    chosen = number or service.versions.current(project)
    numbers = service.versions.numbers(project)
    if chosen not in numbers:
        existing = f"it has {', '.join(map(str, numbers))}" if numbers else "it has none: annotate first"
        what = f"no version {number}" if number else "no version that is served"
        raise Unavailable(f"project {project} has {what}; {existing}")
    decoder = service.decoder_of_version(project, chosen)
    if decoder is None:
        raise Unavailable(f"version {chosen} of project {project} is of another release of Skylight; train anew")
    encoder = service.embedder.segmenter.encoder_id
    if not service.is_compatible(decoder.config.encoder_id):
        raise Unavailable(
            f"version {chosen} of project {project} reads embeddings of {decoder.config.encoder_id}, not of {encoder}; "
            "set SKYLIGHT_SAM to that SAM, or train anew"
        )
    return TrainedVersion(project, chosen, decoder, service.versions.card(project, chosen))
