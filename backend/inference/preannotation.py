"""Pre-annotation: the regions that a project's decoder predicts in an image."""

import logging
from typing import Any

from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import Placement, draw_regions, encoded_length
from skylight.backend.limits import MAX_ANSWERED, MAX_ANSWERED_LARGE, MAX_CHARACTERS
from skylight.backend.service import Service
from skylight.model.decoder.inference import confidence, find_regions, predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.sam_refinement import refine
from skylight.model.images.raster import Raster
from skylight.model.mapping import tiled_inference
from skylight.model.mapping.component_merging import LabelMap
from skylight.model.sam.types import Embedding

log = logging.getLogger(__name__)


def preannotation(
    service: Service, decoder: DomainDecoder, labeling: Labeling, url: str
) -> tuple[list[dict[str, Any]], float]:
    """The decoder's regions for an image, and its score: the lowest are to be annotated first.

    With `SKYLIGHT_REFINE` SAM is asked about each region too, and the sharper mask is taken where both agree. Of more
    than `MAX_ANSWERED` regions those with the highest scores are taken, and the log says so.
    """
    digest, embedding = service.embedder.with_normalization(decoder.config.normalisation).open(url)
    if not isinstance(embedding, Embedding):
        return preannotation_large(service, decoder, labeling, digest, embedding)
    prediction = predict_pixels(decoder, embedding)
    decided = prediction.probabilities
    if (known := embedding.known_mask()) is not None:
        prediction.probabilities[:, ~known] = 0  # as in maps, pixels without data are background, and not counted
        prediction.probabilities[0, ~known] = 1
        decided = prediction.probabilities[:, known] if known.any() else decided
    all_regions = find_regions(prediction, service.settings.min_area)
    if len(all_regions) > MAX_ANSWERED:
        log.warning("%s: of %d regions the %d with the highest scores are sent", url, len(all_regions), MAX_ANSWERED)
    regions_found = all_regions.surest(MAX_ANSWERED)
    if service.settings.refine:
        regions_found = refine(service.embedder.segmenter, embedding, prediction, regions_found)
    regions = []
    for region in regions_found:
        output = labeling.output(labeling.labels[region.label])
        part = Placement(region.top, region.left, embedding.size)
        regions += draw_regions(
            output, region.part, output.own_label(labeling.labels[region.label]), region.score, placement=part
        )
    check_regions(regions, labeling, embedding.size)
    return regions, round(confidence(decided, prediction.count), 4)


def preannotation_large(
    service: Service, decoder: DomainDecoder, labeling: Labeling, digest: str, raster: Raster
) -> tuple[list[dict[str, Any]], float]:
    """As `preannotation`, for a large image; SAM does not refine its regions."""
    config, embedder = decoder.config, service.embedder.with_normalization(decoder.config.normalisation)
    separated = frozenset(config.labels.index(label) for label in config.separate)
    merged = LabelMap(raster.size, len(config.labels), separated)
    regions: list[dict[str, Any]] = []
    characters = 0
    try:
        strips = tiled_inference.strips(
            decoder,
            embedder.segmenter,
            raster,
            embedder.side,
            lambda window: embedder.tile_embedding(digest, raster, window),
        )
        for _ in merged.fill(strips):
            pass
        for component in merged.objects(service.settings.min_area, surest_first=True):
            if len(regions) >= MAX_ANSWERED_LARGE:
                what = "a picture has more than %d objects; those with the lowest scores are not sent"
                log.warning(what, MAX_ANSWERED_LARGE)
                break
            if characters >= MAX_CHARACTERS:
                what = "%d regions of a picture take %d MB; the others are not sent: use PolygonLabels"
                log.warning(what, len(regions), characters // 10**6)
                break
            output = labeling.output(labeling.labels[component.label])
            part = Placement(component.top, component.left, raster.size)
            label = output.own_label(labeling.labels[component.label])
            new = draw_regions(output, component.mask, label, component.score, placement=part)
            characters += sum(encoded_length(region["value"]) for region in new)
            regions += new
        check_regions(regions, labeling, raster.size)
        return regions, round(merged.confidence, 4)
    finally:
        merged.close()
