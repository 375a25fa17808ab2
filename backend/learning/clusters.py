"""Clusters of a project's images, so that Label Studio can serve tasks of different kinds one after another.

Its uncertainty sampling serves the task of the lowest score in a cluster of which the annotator has done the fewest,
counted among the tasks with a prediction by the version of now.
"""

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import SkylightError
from skylight.backend.queue.keys import key
from skylight.backend.service import Service
from skylight.model.active_learning.clustering import cluster_centres, nearest_centres
from skylight.model.active_learning.novelty import mean_feature
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import PER_IMAGE, Normalization

SAMPLE = 200  # tasks by which the clusters are found; some minutes of embedding in a new project, then seconds


def find_clusters(
    service: Service,
    project: str,
    version: str,
    urls: Mapping[int, str],
    stop: Callable[[], bool],
    how: Normalization = PER_IMAGE,
) -> NDArray[np.float32] | None:
    """The centres (K, D) float32 of the open tasks' pooled embeddings, K = 0 if there are too few; None if stopped.

    `urls`: of the open tasks' images by task id. They are found once for a version, so that a cluster's number means
    the same in all its predictions; `how`: as it sees them. Pictures that cannot be read are left out.
    """
    redis, name = service.queue.redis, key(project, "clusters")
    kept_version, stored = json.loads(redis.get(name) or '["", []]')
    if kept_version == version:
        return np.array(stored, np.float32)
    points = []
    for task in sorted(urls, key=lambda task: hashlib.sha256(str(task).encode()).digest())[:SAMPLE]:
        if stop():
            return None
        try:
            points.append(mean_feature(service.embedder.with_normalization(how).embedding(urls[task])[1]))
        except (SkylightError, ImageError):
            continue
    centres = cluster_centres(np.stack(points)) if points else np.zeros((0, 1), np.float32)
    redis.set(name, json.dumps([version, centres.tolist()]))
    return centres


def cluster_of(service: Service, centres: NDArray[np.float32], url: str, how: Normalization = PER_IMAGE) -> int | None:
    """The cluster that an image belongs to, None where there are none. Raises as `Pictures.embedding` does."""
    if not len(centres):
        return None
    return int(
        nearest_centres(mean_feature(service.embedder.with_normalization(how).embedding(url)[1])[None], centres)[0]
    )
