"""Some of the addresses that `make torture` tries, and the key after a whole round."""

import logging
import random

from tests.backend.web.test_webhook import everything
from tests.support.attacks import climbing, direct, network, redirected
from tests.support.label_studio_double import CONFIG, KEY
from tests.support.planted_embeddings import brush, png, square

SOME = 150


def test_no_address_and_no_redirect_leads_inside():
    chance = random.Random(6)
    with network() as net:
        straight = list(direct(net.trap.port, f"127.0.0.1:{net.home.port}"))
        around = list(redirected(net, straight))
        for url in ("http://127.1:{}/a.png", "http://inside.test:{}/a.png", "http://[::ffff:127.0.0.1]:{}/a.png"):
            net.plainly(url.format(net.trap.port))
        assert net.trap.connections == 3, "the trap works"
        names = [url for url in straight if ".test" in url]
        for url in [*names, *chance.sample(straight, SOME), *chance.sample(around, SOME)]:
            net.fetch(url)
        assert net.trap.connections == 3
        assert net.fetch(f"http://public.test:{net.stranger.port}/a.png") and net.fetch("/data/upload/1/a.png")
        asked = net.stranger.connections
        for url in chance.sample(around, 30):
            net.fetch(url, "none")
        assert net.stranger.connections == asked and net.leaked == 0


def test_no_path_leads_out_of_label_studios_folders():
    with network() as net:
        for url in climbing(net.home.url):
            assert net.fetch(url) is None
        assert net.home.seen == []


def test_the_key_goes_only_to_files(caplog):
    with network() as net:
        net.home.anything = (200, {}, b"a page")
        for path in ("/api/projects/1/", "/data/../api/projects/1/", "/user/logout", "/data/%2e%2e/api/"):
            net.fetch(path)
        assert net.home.seen == [("/api/projects/1/", None), ("/user/logout", None)]


def test_the_key_and_secrets_are_in_no_log_no_error_and_not_in_redis(service, client, studio, work, caplog):
    """After clicks, annotations, a training, and pictures that are gone."""
    from skylight.backend.labelstudio.label_config import parse_config

    caplog.set_level(logging.DEBUG)
    labeling, project = parse_config(CONFIG), studio.add_project()
    for seed in range(4):
        image, mask = square(seed)
        task = studio.add_task(project, png(image))
        annotation = studio.annotate(task, [brush(labeling, mask)])
        body = studio.webhook("ANNOTATION_CREATED", project, annotation)
        client.post("/webhook", json=body, headers=service.secret.headers)
    gone = {"project": project, "label_config": CONFIG, "tasks": [{"id": 9, "data": {"image": "/data/upload/1/x.png"}}]}
    said = [client.post("/predict", json=gone).text, client.get("/status").text, client.get("/").text]
    jobs = [job for queue in service.queue.queues.values() for job in queue.jobs]
    assert jobs, "some are queued"
    said += [everything(service), *(repr((job.args, job.kwargs, job.description, job.meta)) for job in jobs)]
    work()
    studio.pictures.clear()
    assert client.post(f"/projects/{project}/train").status_code == 403
    service.queue.request_reconciliation(project)
    service.queue.request(project, "ingest")
    work()
    assert service.versions.current(project) == 1
    texts = {"redis": everything(service), "log": caplog.text, "answers and jobs": "".join(said)}
    for where, text in texts.items():
        assert KEY not in text and service.secret.value not in text, where
