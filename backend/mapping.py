"""`skylight map`: which decoder, what to write, and one picture after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import BadRequest
from backend.service import Service
from backend.trained import Version, trained
from model import mapping
from model.images import ImageError
from model.mapping import NEED_GEO, Input, Options
from model.rasters import has_rasterio
from model.sam import Segmenter
from model.tiles import default_side


@dataclass
class Mapping:
    """A decoder, its SAM, what to write, and what has been written so far."""

    version: Version
    segmenter: Segmenter
    options: Options
    pictures: list[dict[str, Any]] = field(default_factory=list)

    def run(
        self, todo: Sequence[Input], progress: Callable[[int, float, str], None]
    ) -> Iterator[tuple[Input, bool, str]]:
        """Map pictures one by one; yields each with whether it was mapped before, and why it could not be, or "".

        `progress` hears the picture's number, the share of it that is done, and its name.
        """
        for i, each in enumerate(todo):
            reason, kept = "", mapping.done(each, self.options)
            was_there = kept is not None
            try:
                kept = kept or mapping.map_picture(
                    each,
                    self.options,
                    self.version.decoder,
                    self.segmenter,
                    lambda share, i=i, each=each: progress(i, share, each.name),  # type: ignore[misc]
                )
                self.pictures.append(kept)
            except (ImageError, OSError) as error:
                reason = str(error)
            yield each, was_there, reason

    def finish(self) -> list[str]:
        """Write what is of all pictures together; gives the files' names."""
        if not self.pictures:
            return []
        names = mapping.finish(self.options, self.version.decoder.config.labels, self.pictures)
        return [str(self.options.out / name) for name in names]


def plan(
    service: Service,
    project: str,
    number: int | None,
    out: Path,
    formats: tuple[str, ...],
    bands: tuple[int, ...] = (),
    again: bool = False,
) -> Mapping:
    """A mapping by a version of a project, the one that is served if `number` is None.

    Raises SkylightError if there is none, or if a format needs what is not installed.
    """
    if set(formats) & set(NEED_GEO) and not has_rasterio():
        asked = ", ".join(sorted(set(formats) & set(NEED_GEO)))
        raise BadRequest(f"{asked} needs rasterio and others: pip install 'skylight[geo]', or ask for png or coco")
    version = trained(service, project, number)
    segmenter, settings = service.pictures.segmenter, service.settings
    tile = settings.tile or default_side(segmenter)
    if again:
        mapping.forget(out)
    how = version.decoder.config.normalisation
    options = Options(out, formats, version.name, tile, settings.min_area, settings.max_pixels, bands, how)
    return Mapping(version, segmenter, options)
