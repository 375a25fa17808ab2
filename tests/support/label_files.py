"""Files with labels: COCO, masks, exports of Label Studio; and what an import of them has made."""

import json

import numpy as np
from PIL import Image

from skylight.backend.demo.demo import label_config
from skylight.backend.labelstudio.region_reader import read_mask
from tests.support.planted_embeddings import png, square

TWO = label_config(["Pit", "Crater"])
TRIANGLE = [2, 2, 40, 2, 40, 40]
NUMBERS = np.zeros((64, 64), np.uint8)
NUMBERS[2:9, 3:12], NUMBERS[20:30, 20:30], NUMBERS[40:50, 8:9] = 1, 2, 2


def write(path, body):
    path.write_text(json.dumps(body))
    return path


def coco(path, *pictures, label="Pit"):
    """A COCO file of pictures, each its file name and masks (64, 64)."""
    images, annotations = [], []
    for number, (name, *masks) in enumerate(pictures):
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        for mask in masks:
            counts = [len(run) for run in np.split(mask.T.ravel(), np.flatnonzero(np.diff(mask.T.ravel())) + 1)]
            segmentation = {"size": [64, 64], "counts": counts if not mask[0, 0] else [0, *counts]}
            annotations.append({"id": 1, "image_id": number, "category_id": 5, "segmentation": segmentation})
    categories = [{"id": 5, "name": label}, {"id": 6, "name": "nothing of ours"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def coco_of(path, *items, size=None):
    """A COCO file of pictures and rings, (name, ring, ..) each, of sizes as said."""
    images = [
        {"id": k, "file_name": name, **(size or {"height": 64, "width": 64})} for k, (name, *_) in enumerate(items)
    ]
    rings = [(k, ring) for k, (_, *found) in enumerate(items) for ring in found]
    annotations = [
        {"id": n, "image_id": k, "category_id": 1, "segmentation": [ring]} for n, (k, ring) in enumerate(rings)
    ]
    return write(path, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Pit"}]})


def mask(folder, name, numbers=NUMBERS):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(folder / name)
    return folder


def export(studio, path, *tasks):
    """What Label Studio exports as JSON."""
    path.write_text(json.dumps([{**studio.tasks[number], "predictions": []} for number in tasks or studio.tasks]))
    return path


def results(studio, task):
    return [one["result"] for one in studio.tasks[task]["annotations"]]


def masks_of(result):
    return [read_mask(region, (64, 64)) for region in result]


def shape(kind, control, value, **more):
    """A region of a picture of 64 x 64 px, as it is exported."""
    value = {**value, **({kind: ["Pit"]} if kind.endswith("labels") else {})}
    size = {"original_width": 64, "original_height": 64, "image_rotation": 0}
    return {"id": kind, "from_name": control, "to_name": "image", "type": kind, "value": value, **size, **more}


def add_two_tasks(studio):
    """A project with two tasks of 64 x 64 px, a.png and b.png; returns its key."""
    key = studio.add_project()
    for number, name in enumerate(("a.png", "b.png"), 1):
        studio.add_task(key, png(square(number)[0]), name=name)
    return key
