"""`skylight map`: which decoder, what to write, and one picture after the other, here or by several processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.learning.version_lookup import Version, trained
from skylight.backend.mapping import processes
from skylight.backend.mapping.inputs import Input
from skylight.backend.service import Service
from skylight.model.images.decoding import ImageError
from skylight.model.images.raster import has_rasterio
from skylight.model.mapping import pipeline
from skylight.model.mapping.pipeline import NEED_GEO, Options
from skylight.model.mapping.tiled_inference import default_side
from skylight.model.sam.segmenter import Segmenter

Kept = dict[str, Any]  # of a picture, as `mapping.map_picture` gives it
Done = tuple[int, Kept | None, str]  # a picture's number, and what is kept of it, or why it could not be mapped


@dataclass
class Mapping:
    """A decoder, its SAM, what to write, and what has been written so far."""

    version: Version
    segmenter: Segmenter
    options: Options
    jobs: int = 1
    open_service: Callable[[], Service] | None = None  # how another process comes to the same; needed for more jobs
    pictures: dict[int, Kept] = field(default_factory=dict)  # by their numbers

    def run(
        self, todo: Sequence[Input], progress: Callable[[float, str], None]
    ) -> Generator[tuple[Input, bool, str], None, None]:
        """Map pictures; yields each, as it is done, with whether it was mapped before, and why it could not be, or "".

        `progress` hears how many are done, with the shares of those at work, and a name.
        """
        left: list[tuple[int, Input]] = []
        there = 0
        for i, each in enumerate(todo):
            kept, reason = self._before(each)
            if kept is None and not reason:
                left.append((i, each))
                continue
            there += 1
            progress(there, each.name)
            yield self._note(todo, (i, kept, reason), was_there=kept is not None)
        several = min(self.jobs, len(left))
        work = self._together(left, several, there, progress) if several > 1 else self._here(left, there, progress)
        for done in work:
            yield self._note(todo, done, was_there=False)

    def one(self, each: Input, progress: Callable[[float], None]) -> tuple[Kept | None, str]:
        """Map a picture; gives what is kept of it, or why it could not be mapped."""
        try:
            return pipeline.map_picture(each, self.options, self.version.decoder, self.segmenter, progress), ""
        except (ImageError, OSError) as error:
            return None, str(error)

    def finish(self) -> list[str]:
        """Write what is of all pictures together; gives the files' names."""
        if not self.pictures:
            return []
        pictures = [self.pictures[i] for i in sorted(self.pictures)]
        names = pipeline.finish(self.options, self.version.decoder.config.labels, pictures)
        return [str(self.options.out / name) for name in names]

    def _before(self, each: Input) -> tuple[Kept | None, str]:
        try:
            return pipeline.done(each, self.options), ""
        except OSError as error:
            return None, str(error)

    def _here(
        self, left: Sequence[tuple[int, Input]], there: int, progress: Callable[[float, str], None]
    ) -> Iterator[Done]:
        for k, (i, each) in enumerate(left, there):
            kept, reason = self.one(each, lambda share, k=k, each=each: progress(k + share, each.name))  # type: ignore[misc]
            progress(k + 1, each.name)
            yield i, kept, reason

    def _together(
        self, left: Sequence[tuple[int, Input]], several: int, there: int, progress: Callable[[float, str], None]
    ) -> Iterator[Done]:
        assert self.open_service is not None
        again = processes.Again(self.open_service, self.version.project, self.version.number, self.options)
        return processes.run(again, left, several, lambda share, name: progress(there + share, name))

    def _note(self, todo: Sequence[Input], done: Done, was_there: bool) -> tuple[Input, bool, str]:
        i, kept, reason = done
        if kept is not None:
            self.pictures[i] = kept
        return todo[i], was_there, reason


def plan(
    service: Service,
    project: str,
    number: int | None,
    out: Path,
    formats: tuple[str, ...],
    bands: tuple[int, ...] = (),
    again: bool = False,
    jobs: int = 1,
    open_service: Callable[[], Service] | None = None,
) -> Mapping:
    """A mapping by a version of a project, the one that is served if `number` is None.

    `jobs`: processes, each of which opens a service of its own by `open_service`. Raises SkylightError if there is no
    such version, or if a format needs what is not installed.
    """
    if set(formats) & set(NEED_GEO) and not has_rasterio():
        asked = ", ".join(sorted(set(formats) & set(NEED_GEO)))
        raise BadRequest(
            f"{asked} needs rasterio and others: pip install 'label-studio-skylight[geo]', or ask for png or coco"
        )
    version = trained(service, project, number)
    segmenter, settings = service.embedder.segmenter, service.settings
    tile = settings.tile or default_side(segmenter)
    if again:
        pipeline.forget(out)
    how = version.decoder.config.normalisation
    options = Options(out, formats, version.name, tile, settings.min_area, settings.max_pixels, bands, how)
    return Mapping(version, segmenter, options, jobs, open_service)
