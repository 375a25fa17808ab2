"""Odd requests to the whole service, through WSGI: made from its OpenAPI description, and from recorded ones."""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import redis
import schemathesis
from flask import Flask
from flask.testing import FlaskClient
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.web.app import create_app
from skylight.model.embeddings.cache import EmbeddingCache
from tests.support import fuzzing
from tests.support.label_studio_double import CAPTURES, KEY, Studio, wait_until
from tests.support.planted_embeddings import Planted
from tests.torture.report import Report

CHECKS = [not_a_server_error, response_schema_conformance, status_code_conformance]
GENERATED = 300  # requests of each path in `make torture`
MUTATED = 20_000
SLOWEST_S = 1.0


class Said(NamedTuple):
    """What came of some requests."""

    crashes: list[str]
    slowest_s: float


def generated(app: Flask, examples: int) -> int:
    """Requests made at random from the description, the same ones each time; gives how many. Raises if one fails."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=examples,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            nonlocal count
            count += 1
            case.call_and_validate(checks=CHECKS)

        ask()
    return count


def mutated(client: FlaskClient, seeds: Iterable[int]) -> Said:
    """Recorded requests with something odd in their JSON or in their bytes."""
    recorded = [json.loads(path.read_text()) for path in sorted(CAPTURES.glob("*.json"))]
    recorded = [each for each in recorded if each["method"] == "POST"]
    crashes, slowest = [], 0.0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        request = recorded[int(rng.integers(len(recorded)))]
        body = json.dumps(fuzzing.changed(request["body"], rng)).encode()
        if rng.random() < 0.3:
            body = fuzzing.mutated(body, rng)
        began = time.perf_counter()
        status = client.post(request["path"], data=body, content_type="application/json").status_code
        slowest = max(slowest, time.perf_counter() - began)
        if status >= 500:
            crashes.append(f"seed {seed}: {request['path']} answered {status}")
    return Said(crashes, slowest)


def torture(report: Report) -> int:
    """Many of both kinds to a service with a broker of its own; gives how many."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        address = Path(folder) / "s"
        command = [sys.executable, "-m", "skylight.backend.process.broker", folder, str(address)]
        with subprocess.Popen(command) as broker, redis.Redis(unix_socket_path=str(address)) as connection:
            try:
                wait_until(lambda: _answers(connection))
                service = Service(Settings(studio.url, KEY, f"unix://{address}", Path(folder) / "home", device="cpu"))
                cache = EmbeddingCache(service.files, Planted.encoder_id, 0)
                service._embedder = ImageEmbedder(Planted(), cache, service._fetch, 10**6)  # type: ignore[arg-type]
                app = create_app(service.settings, service)
                made = generated(app, GENERATED)
                said = mutated(app.test_client(), range(MUTATED))
                wait_until(lambda: not service.prefetch_thread.busy)
            finally:
                broker.terminate()
    logging.disable(logging.NOTSET)
    for crash in said.crashes[:5]:
        print(f"  {crash}")
    report.fault("fuzzed: requests made from /openapi.json", made, 0)
    report.fault("fuzzed: recorded requests, mutated", MUTATED, len(said.crashes))
    report.figure("fuzzed: recorded requests: slowest", said.slowest_s, "s", most=SLOWEST_S)
    return made + MUTATED


def _answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False
