"""`skylight map`: which decoder, what to write, and one image after the other, here or by several processes."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from skylight.backend.errors import BadRequest
from skylight.backend.learning.version_lookup import TrainedVersion, find_version
from skylight.backend.mapping import processes
from skylight.backend.mapping.inputs import Input
from skylight.backend.mapping.processes import Numbered, Outcome, Record, Result
from skylight.backend.service import Service
from skylight.model.images.decoding import ImageError
from skylight.model.images.geotiff import has_rasterio
from skylight.model.mapping import pipeline
from skylight.model.mapping.pipeline import NEED_GEO, Options
from skylight.model.mapping.tiled_inference import default_side
from skylight.model.sam.segmenter import Segmenter

Progress = Callable[[float, str], None]  # takes how many images are done, with the shares of those at work, and a name


@dataclass(frozen=True)
class ImageMapper:
    """Maps single images by a trained version and its SAM."""

    version: TrainedVersion
    segmenter: Segmenter
    options: Options

    @classmethod
    def open(cls, open_service: Callable[[], Service], project: str, number: int, options: Options) -> Self:
        """A mapper of another process, with a service of its own. Raises SkylightError as `trained` does."""
        service = open_service()
        return cls(find_version(service, project, number), service.embedder.segmenter, options)

    def __call__(self, image: Input, progress: Callable[[float], None]) -> Outcome:
        """Map an image; returns its record, or None and why it could not be mapped."""
        try:
            return pipeline.map_image(image, self.options, self.version.decoder, self.segmenter, progress), ""
        except (ImageError, OSError) as error:
            return None, str(error)


@dataclass
class MapRun:
    """A run of `skylight map`: how images are mapped, and the records of those that have been."""

    mapper: ImageMapper
    jobs: int = 1
    open_service: Callable[[], Service] | None = None  # for the processes of more than one job
    records: dict[int, Record] = field(default_factory=dict)  # by the images' numbers

    @property
    def options(self) -> Options:
        """What is written, and how."""
        return self.mapper.options

    def run(self, images: Sequence[Input], progress: Progress) -> Generator[tuple[Input, bool, str], None, None]:
        """Map images; yields each, as it is done, with whether it was mapped before, and why it could not be, or ""."""
        left: list[Numbered] = []
        for i, image in enumerate(images):
            record, reason = self._earlier_record(image)
            if record is None and not reason:
                left.append((i, image))
                continue
            progress(i + 1 - len(left), image.name)
            yield self._add(images, (i, record, reason), mapped_before=record is not None)
        done = len(images) - len(left)
        jobs = min(self.jobs, len(left))
        results = self._run_processes(left, jobs, done, progress) if jobs > 1 else self._run_here(left, done, progress)
        for result in results:
            yield self._add(images, result, mapped_before=False)

    def finish(self) -> list[str]:
        """Write the files about all images together; returns their paths."""
        if not self.records:
            return []
        records = [self.records[i] for i in sorted(self.records)]
        names = pipeline.finish(self.options, self.mapper.version.decoder.config.labels, records)
        return [str(self.options.out / name) for name in names]

    def _earlier_record(self, image: Input) -> Outcome:
        """The record of an image that has been mapped so already, or why it cannot be looked at."""
        try:
            return pipeline.done(image, self.options), ""
        except OSError as error:
            return None, str(error)

    def _run_here(self, left: Sequence[Numbered], done: int, progress: Progress) -> Iterator[Result]:
        for k, (i, image) in enumerate(left, done):

            def share_done(share: float, k: int = k, name: str = image.name) -> None:
                progress(k + share, name)

            record, reason = self.mapper(image, share_done)
            progress(k + 1, image.name)
            yield i, record, reason

    def _run_processes(self, left: Sequence[Numbered], jobs: int, done: int, progress: Progress) -> Iterator[Result]:
        assert self.open_service is not None
        version = self.mapper.version
        open_mapper = partial(ImageMapper.open, self.open_service, version.project, version.number, self.options)
        return processes.run(open_mapper, left, jobs, lambda share, name: progress(done + share, name))

    def _add(self, images: Sequence[Input], result: Result, mapped_before: bool) -> tuple[Input, bool, str]:
        i, record, reason = result
        if record is not None:
            self.records[i] = record
        return images[i], mapped_before, reason


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
) -> MapRun:
    """Plan a run by a version of a project, the one that is served if `number` is None.

    `again`: also map what has been mapped. `jobs`: processes, each of which opens a service of its own by
    `open_service`. Raises SkylightError if there is no such version, or if a format needs what is not installed.
    """
    if set(formats) & set(NEED_GEO) and not has_rasterio():
        names = ", ".join(sorted(set(formats) & set(NEED_GEO)))
        raise BadRequest(
            f"{names} needs rasterio and others: pip install 'label-studio-skylight[geo]', or ask for png or coco"
        )
    version = find_version(service, project, number)
    segmenter, settings = service.embedder.segmenter, service.settings
    tile = settings.tile or default_side(segmenter)
    if again:
        pipeline.discard_records(out)
    normalization = version.decoder.config.normalisation
    options = Options(out, formats, version.name, tile, settings.min_area, settings.max_pixels, bands, normalization)
    return MapRun(ImageMapper(version, segmenter, options), jobs, open_service)
