"""Small pictures of truth, prediction and disagreement."""

import io

import numpy as np
from PIL import Image

from skylight.backend.web.page import gallery_overlays
from skylight.backend.web.page.gallery_overlays import (
    GAP,
    INVENTED,
    MISSED,
    SIDE,
    disagreement,
    draw,
    edge_pixels,
    overlay,
    resize_nearest,
    thumbnail_image,
)
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding


def embedding(height=60, width=120, gray=100) -> Embedding:
    """Of a wide picture: 8 x 8 cells, of which the lower half is padding."""
    thumbnail = np.zeros((64, 64, 3), np.uint8)
    thumbnail[: round(64 * height / max(height, width)), : round(64 * width / max(height, width))] = gray
    return Embedding(np.zeros((256, 8, 8), np.float16), (height, width), thumbnail)


def everywhere(label=1, labels=("Pit", "Crater")) -> DomainDecoder:
    """A decoder that finds one label everywhere."""
    decoder = DomainDecoder(DecoderConfig(labels, "t")).eval()
    decoder.head.bias.data[:] = 0
    decoder.head.bias.data[4 * label : 4 * label + 4] = 1000  # of the four quarters of a cell
    return decoder


def panels(data: bytes) -> list[np.ndarray]:
    sheet = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    width = (sheet.shape[1] - 2 * GAP) // 3
    assert (sheet[:, width : width + GAP, 3] == 0).all()
    return [sheet[:, i * (width + GAP) : i * (width + GAP) + width, :3].astype(int) for i in range(3)]


def test_the_picture_is_the_thumbnail_without_its_padding():
    found = thumbnail_image(embedding())
    assert found.shape == (SIDE // 2, SIDE, 3)
    assert (found == 100).all()
    assert thumbnail_image(embedding(1, 5000)).shape == (1, SIDE, 3)


def test_a_drawing_shows_truth_prediction_and_what_is_wrong():
    truth = np.zeros((60, 120), np.uint8)
    truth[:, :60] = 1
    left, middle, right = panels(draw(everywhere(), embedding(), truth))
    assert left.shape == middle.shape == right.shape == (SIDE // 2, SIDE, 3)
    inside, outside = (64, 40), (64, 220)
    assert abs(left[outside] - 100).max() < 12  # as it was, but for WebP
    assert left[inside][0] > 140 and middle[inside][0] > 140 and middle[outside][0] > 140
    assert abs(right[inside] - 60).max() < 12  # right: the picture in dark gray
    assert abs(right[outside] - (0.25 * 60 + 0.75 * np.array(INVENTED))).max() < 25


def test_missed_invented_and_confused_have_their_own_colours():
    gray = np.full((30, 40, 3), 100, np.uint8)
    truth, found = np.zeros((2, 30, 40), np.uint8)
    truth[:, :20], found[:, 10:30] = 1, 2
    truth[25:] = IGNORE
    drawn = disagreement(gray, truth, found)
    at = {name: tuple(drawn[10, column]) for name, column in (("missed", 5), ("confused", 15), ("invented", 25))}
    assert len({*at.values(), tuple(drawn[10, 35])}) == 4
    assert tuple(drawn[10, 35]) == (60, 60, 60)
    assert at["missed"] == tuple((15 + 0.75 * np.array(MISSED)).astype(int))
    assert (drawn[26:] == 60).all()  # not known, so not wrong


def test_each_label_has_its_colour_and_ignored_pixels_have_none():
    gray = np.full((30, 40, 3), 100, np.uint8)
    label_map = np.zeros((30, 40), np.uint8)
    label_map[:, :10], label_map[:, 10:20], label_map[:, 20:30] = 1, 2, IGNORE
    drawn = overlay(gray, label_map)
    assert tuple(drawn[15, 5]) != tuple(drawn[15, 15])
    assert (drawn[:, 20:] == 100).all()
    assert len(np.unique(overlay(gray, np.full((30, 40), 254, np.uint8)).reshape(-1, 3), axis=0)) == 1


def test_label_maps_are_scaled_without_new_values_up_and_down():
    label_map = np.array([[0, 3], [255, 7]], np.uint8)
    assert (resize_nearest(label_map, (4, 6)) == np.kron(label_map, np.ones((2, 3), np.uint8))).all()
    assert (resize_nearest(resize_nearest(label_map, (4, 6)), (2, 2)) == label_map).all()
    assert resize_nearest(label_map, (1, 1)).shape == (1, 1)


def test_a_rim_is_one_pixel_wide_and_not_along_the_border():
    mask = np.zeros((6, 6), bool)
    mask[:4, :4] = True
    found = edge_pixels(mask)
    assert found[3, :4].all() and found[:4, 3].all() and found.sum() == 7


def test_the_prediction_is_made_at_the_drawings_size(monkeypatch):
    huge = embedding(30_000, 60_000)
    found = gallery_overlays.predict_labels(everywhere(2), huge, (SIDE // 2, SIDE))
    assert found.shape == (SIDE // 2, SIDE) and (found == 2).all()
