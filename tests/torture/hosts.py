"""Two web servers and three workers on machines that share a Redis and a bucket: one is cut off and back, the bucket is
slow and fails, and a version promoted on one is served by the other.
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.queue.keys import key
from skylight.backend.web.csrf import FIELD
from tests.support.label_studio_double import CONFIG, wait_until
from tests.support.planted_embeddings import brush, png, square
from tests.torture.machines import Host, Site, site
from tests.torture.namespaces import Machine
from tests.torture.report import Report

LABELING = parse_config(CONFIG)
SLOW_SECONDS = 0.3  # of each connection to the bucket
FAILURES = 25  # connections of each machine that are answered 503
LONG_SECONDS = 20.0  # after which Redis has forgotten the machine that is cut off


def run(report: Report) -> None:
    """Everything in turn, on one project."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as made:
        real = sum(isinstance(host.machine, Machine) for host in made.hosts)
        report.figure("hosts: machines that are network namespaces", real, f"of {len(made.hosts)}")
        Hosts(report, made).run()


class Hosts:
    """The machines, one project on them, and what has been annotated in it."""

    def __init__(self, report: Report, made: Site) -> None:
        self.report, self.site, self.studio = report, made, made.studio
        self.one, self.two, self.three = made.hosts
        self.project = made.studio.add_project()
        self.annotated = 0

    def run(self) -> None:
        """In turn."""
        self.versions()
        self.cut_off()
        self.cut_off_at_work()
        self.bucket_fails()

    def versions(self) -> None:
        """What one machine trains, or serves by a person's will, the other serves."""
        for _ in range(3):
            self.submit(self.one)
        wait_until(lambda: self.one.served(self.project) == "skylight-1", 240)
        took = waited(lambda: self.two.served(self.project) == "skylight-1")
        self.report.figure("hosts: a version trained is served by the other web server too, after", took, "s", most=2)
        took = self.acted("roll-back", "")
        self.report.figure("hosts: rolled back on one's page, the other serves so after", took, "s", most=2)
        took = self.acted("versions/1/promote", "skylight-1")
        self.report.figure("hosts: promoted on one's page, the other serves it after", took, "s", most=2)

    def cut_off(self) -> None:
        """One is cut off for long, while it waits for a job; then it alone has a worker."""
        others, before, told = (self.one, self.three), self.two.served(self.project), list[float]()
        self.two.machine.cut_off()
        began = time.monotonic()
        for _ in range(3):
            self.submit(self.one)
        self.report.figure("hosts: one cut off, the others learn after", waited(self.all_learned, 240), "s")
        seconds, answer = self.two.told("/setup", {"project": self.project, "schema": CONFIG})
        self.report.figure("hosts: the one cut off still answers /setup, in", seconds, "s", most=3)
        self.submit(self.two, lambda body: told.append(self.two.told("/webhook", body)[0]))
        self.report.figure("hosts: it keeps an event that it hears of, in", told[0], "s", most=1)
        time.sleep(max(0.0, began + LONG_SECONDS - time.monotonic()))
        self.two.machine.back()
        took = waited(lambda: self.all_learned() and self.two.served(self.project) == self.one.served(self.project))
        lost = int(answer["model_version"] != before) + self.annotated - self.site.learned(self.project)
        self.report.fault("hosts: a machine cut off from Redis and bucket", 1, lost, took)

        for host in others:
            host.end("worker")
        self.submit(self.one)
        self.report.figure("hosts: back, it learns alone after", waited(self.all_learned, 600), "s")

    def cut_off_at_work(self) -> None:
        """It is cut off again, with a job in hand; the others' workers come back."""
        self.submit(self.one)
        wait_until(self.at_work, 60)
        self.two.machine.cut_off()
        for host in (self.one, self.three):
            host.start("worker")
        took = waited(self.all_learned, 240)
        self.two.machine.back()
        wait_until(lambda: self.two.served(self.project) == self.one.served(self.project), 120)
        self.report.fault("hosts: a machine cut off with a job in hand", 1, int(self.two.ended("worker")), took)

    def bucket_fails(self) -> None:
        """The bucket is slow, and answers 503."""
        hosts = (self.one, self.two, self.three)
        for each in hosts:
            each.bucket.delay, each.bucket.failing = SLOW_SECONDS, FAILURES
        for _ in range(3):
            self.submit(self.two)
        took = waited(self.all_learned, 240)
        lost = self.annotated - self.site.learned(self.project)
        self.report.fault("hosts: the bucket slow, and 503", sum(each.bucket.failed for each in hosts), lost, took)

    def submit(self, host: Host, tell: Callable[[dict[str, Any]], object] | None = None) -> None:
        """Annotate a task; the host hears of it."""
        image, mask = square(self.annotated)
        task = self.studio.add_task(self.project, png(image))
        annotation = self.studio.annotate(task, [brush(LABELING, mask)])
        self.annotated += 1
        body = self.studio.webhook("ANNOTATION_CREATED", self.project, annotation)
        if tell:
            tell(body)
        else:
            requests.post(f"{host.url}/webhook", json=body, timeout=30).raise_for_status()

    def all_learned(self) -> bool:
        """Whether the newest version is of all annotations."""
        return self.site.learned(self.project) == self.annotated

    def at_work(self) -> bool:
        """Whether a worker has a training in hand."""
        return self.site.redis.hlen(key(self.project, "train-hand")) > 0

    def acted(self, action: str, version: str) -> float:
        """Press a button on the first machine's page, as a person does; seconds until the other serves a version.

        "" is any other than before.
        """

        def done() -> bool:
            now = self.two.served(self.project)
            return now == version if version else now not in ("", before)

        page, before = requests.Session(), self.two.served(self.project)
        where = f"{self.one.url}/projects/{self.project}"
        token = page.get(where, timeout=30).text.partition(f'name="{FIELD}" value="')[2].partition('"')[0]
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": self.one.url}
        page.post(f"{where}/{action}", data={FIELD: token}, headers=headers, timeout=30).raise_for_status()
        return waited(done)


def waited(done: Callable[[], Any], seconds: float = 120.0) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    wait_until(done, seconds)
    return time.monotonic() - began
