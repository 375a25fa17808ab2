"""The page for people, over HTTP."""

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from skylight.backend.admin import doctor
from skylight.backend.admin.findings import Finding
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from skylight.backend.web.csrf import COOKIE
from skylight.model.decoder import network
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from tests.support.label_studio_double import CONFIG, KEY, wait_until
from tests.support.planted_embeddings import Planted, brush, png, square

ROOT = Path(__file__).parents[4]
LABELING = parse_config(CONFIG)
EVIL = "<script>alert(1)</script>"
SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(autouse=True)
def healthy(monkeypatch) -> None:
    """A doctor who finds nothing, at once."""
    monkeypatch.setattr(doctor, "findings", lambda service: [])


@pytest.fixture
def project(planted, studio) -> str:
    """A project with a title that no page should run."""
    key = studio.add_project(title=f"Pits {EVIL}")
    planted.store.save_config(key, CONFIG)
    return key


@pytest.fixture
def learned(planted, client, studio, project, work) -> str:
    """The same after four annotations and a training."""
    for seed in range(4):
        image, mask = square(seed)
        annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
        client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    work()
    assert planted.versions.current(project) == 1
    return project


def publish(service, project, labels=("Pit",), **card):
    decoder = DomainDecoder(DecoderConfig(labels, Planted.encoder_id))
    made = {"labels": list(labels), "encoder_id": Planted.encoder_id, **card}
    return service.versions.publish(project, lambda path: network.save(decoder, path), made)


def press(client, page, action, headers=SITE):
    """Press the button of the form whose address ends in `action`, as a browser does."""
    forms = dict(
        re.findall(r'<form method="post" action="([^"]+)">\s*<input type="hidden" name="token" value="([^"]+)"', page)
    )
    (address,) = [each for each in forms if each.endswith(action)]
    return client.post(address, data={"token": forms[address]}, headers=headers)


class Tags(HTMLParser):
    """The tags of a page, and whether each that must be closed is, in its place."""

    VOID = ("meta", "link", "img", "input", "line", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_without_a_project_the_page_says_how_to_connect_one(client):
    answer = client.get("/")
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert "Connect Model" in answer.text
    Tags(answer.text)


def test_a_single_project_is_shown_at_once_and_several_as_a_list(client, planted, studio, project):
    assert "Learning curve" in client.get("/").text
    planted.store.save_config(studio.add_project(title="Craters"), CONFIG)
    text = client.get("/").text
    assert "Learning curve" not in text and "Craters" in text
    assert f'href="/projects/{project}"' in text
    assert "Learning curve" in client.get(f"/projects/{project}").text


def test_a_trained_project_shows_its_figures_as_text_and_as_curves(client, planted, learned):
    text = client.get("/").text
    found = Tags(text)
    card = planted.versions.card(learned, 1)
    assert f"<strong>{card['validation']['mean_iou']:.2f}</strong>" in text
    assert f"mean IoU {card['validation']['mean_iou']:.2f} after 4 annotations" in text
    assert "cross-validated on 4 images" in text and card["verdict"] in text
    assert "4 <small>of 4</small>" in text  # images ready
    assert "Everything accepted has been learned from" in text
    svgs = [attributes for tag, attributes in found.seen if tag == "svg"]
    titled = {attributes.get("id") for tag, attributes in found.seen if tag in ("title", "desc")}
    assert svgs and all(set(each["aria-labelledby"].split()) <= titled for each in svgs)


def test_agreement_is_shown_once_a_pre_annotation_was_corrected(client, planted, studio, learned, work):
    assert "nothing pre-annotated was accepted yet" in client.get("/").text
    image, mask = square(7)
    task = studio.add_task(learned, png(image))
    client.post("/webhook", json=studio.webhook("TASKS_CREATED", learned) | {"tasks": [{"id": task}]})
    work()
    assert studio.predicted("skylight-1") == [task]
    annotation = studio.annotate(task, [brush(LABELING, mask)])
    client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", learned, annotation))
    work()
    (agreed,) = [record.agreement for record in planted.store.samples(learned) if record.agreement is not None]
    text = client.get("/").text
    assert f"{agreed:.2f} <small>IoU</small>" in text and "Agreement with the pre-annotation" in text
    assert f"task {task}, begun with skylight-1: IoU {agreed:.2f}" in text


def test_everything_that_came_from_elsewhere_is_escaped(client, planted, studio, project):
    publish(
        planted, project, labels=("Pit", EVIL), verdict=EVIL, validation={"mean_iou": 0.5, "iou": {EVIL: 0.5, "b": 0.5}}
    )
    planted.versions.promote(project, 1)
    for path in ("/", f"/projects/{project}", f"/projects/{project}/versions/1", "/projects/" + EVIL):
        text = client.get(path).text
        assert EVIL not in text, path
    assert "&lt;script&gt;" in client.get("/").text


def test_nothing_comes_from_another_site_and_nothing_runs_inline(client, planted, learned):
    for path in ("/", f"/projects/{learned}/versions/1"):
        answer = client.get(path)
        found = Tags(answer.text).seen
        loaded = [a.get("src") or a.get("href") for tag, a in found if tag in ("script", "link", "img")]
        assert loaded and all(each.startswith("/") for each in loaded if each)
        assert not [a for _, a in found if any(name.startswith("on") or name == "style" for name in a)]
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        for each in loaded:
            with client.get(each) as file:
                assert file.status_code == 200, each


def test_train_now_queues_a_training(client, planted, project):
    answer = press(client, client.get("/").text, "/train")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/projects/{project}?done=training")
    assert planted.queue.queues["train"].count == 1
    assert "Training is queued" in client.get(answer.headers["Location"]).text


def test_a_version_is_promoted_and_rolled_back(client, planted, project):
    for number in (1, 2):
        publish(planted, project)
        planted.versions.promote(project, number)
    page = client.get("/").text
    assert "Roll back to version 1" in page
    assert press(client, page, "versions/1/promote").status_code == 303
    assert planted.versions.current(project) == 1
    assert press(client, client.get("/").text, "/roll-back").status_code == 303
    assert planted.versions.current(project) == 2
    assert "Roll back to SAM alone" in client.get("/").text


@pytest.mark.parametrize("action", ["train", "roll-back", "versions/1/promote"])
def test_an_action_needs_the_pages_own_form(client, planted, project, action):
    for _ in range(2):
        publish(planted, project)
    planted.versions.promote(project, 2)
    page = client.get("/").text
    address = f"/projects/{project}/{action}"
    assert client.get(address).status_code == 405
    assert client.post(address, headers=SITE).status_code == 403
    assert client.post(address, data={"token": "x"}, headers=SITE).status_code == 403
    elsewhere = press(client, page, action, {"Sec-Fetch-Site": "cross-site"})
    assert elsewhere.status_code == 403 and "another site" in elsewhere.text
    assert press(client, page, action, {"Origin": "http://evil.example"}).status_code == 403
    client.delete_cookie(COOKIE)
    assert press(client, page, action).status_code == 403
    assert planted.versions.current(project) == 2
    assert planted.queue.queues["train"].count == planted.queue.queues["preannotate"].count == 0


def test_a_page_stays_good_while_skylight_is_started_anew(client, planted, project):
    page = client.get("/").text
    again = create_app(planted.settings, planted).test_client()
    again.set_cookie(COOKIE, client.get_cookie(COOKIE).value)
    assert press(again, page, "/train").status_code == 303


def test_a_version_for_other_labels_has_no_button_and_is_refused(client, planted, project):
    publish(planted, project, labels=("Crater",))
    text = client.get("/").text
    assert "for other labels: Crater" in text and "/promote" not in text
    token = re.findall(r'name="token" value="([^"]+)"', text)[0]
    answer = client.post(f"/projects/{project}/versions/1/promote", data={"token": token}, headers=SITE)
    assert answer.status_code == 400 and "cannot be served" in answer.text
    assert planted.versions.current(project) == 0


@pytest.mark.parametrize(
    "path",
    ["/projects/9.1", "/projects/..", "/projects/1.1795340401/versions/7", "/projects/9.1/versions/1/tasks/1.webp"],
)
def test_what_is_not_there_is_said_in_a_page(client, project, path):
    answer = client.get(path)
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "That did not work" in answer.text


def test_a_versions_images_are_shown_and_can_be_fetched(client, planted, learned):
    text = client.get(f"/projects/{learned}/versions/1").text
    per_task = planted.versions.card(learned, 1)["per_task"]
    shown = re.findall(r'src="(/projects/[^"]+\.webp[^"]*)"', text)
    assert len(shown) == len(per_task) == 4
    assert "cross-validation" in text
    worst = min(per_task, key=lambda task: (per_task[task], task))
    assert f"/tasks/{worst}.webp" in shown[0]
    answer = client.get(shown[0].replace("&amp;", "&"))
    assert (answer.status_code, answer.mimetype) == (200, "image/webp")
    assert "max-age=604800" in answer.headers["Cache-Control"] and "private" in answer.headers["Cache-Control"]
    assert client.get(f"/projects/{learned}/versions/1/tasks/99.webp").status_code == 404


def test_of_many_images_the_worst_are_shown_first_and_all_on_demand(client, planted, project):
    publish(planted, project, per_task={str(i): i / 100 for i in range(40)}, validation={"mean_iou": 0.2, "iou": {}})
    text = client.get(f"/projects/{project}/versions/1").text
    assert text.count("Its annotation is gone") == 24 and "Show all 40" in text
    assert client.get(f"/projects/{project}/versions/1?all=1").text.count("Its annotation is gone") == 40


def test_of_many_versions_the_newest_are_listed_and_all_on_demand(client, planted, project):
    for _ in range(10):
        publish(planted, project)
    text = client.get("/").text
    assert "2 older versions" in text
    assert [f'Promote version {number}"' in text for number in (10, 3, 2)] == [True, True, False]
    assert 'Promote version 1"' in client.get(f"/projects/{project}?versions=all").text


def test_a_project_that_cannot_be_served_is_named_and_cannot_be_trained(client, planted, project):
    planted.store.save_config(project, "<View><Text name='t' value='$t'/></View>")
    text = client.get("/").text
    assert "cannot be served" in text and "has no Image" in text
    assert re.search(r"<button disabled>Train now", text)


def test_while_redis_is_away_the_page_is_shown_and_its_buttons_are_off(service, project):
    publish(service, project)
    service.versions.promote(project, 1)
    client = create_app(service.settings, service).test_client()
    page = client.get("/").text
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    other = create_app(away.settings, away).test_client()
    text = other.get("/").text
    assert "Redis does not answer" in text and "skylight-1" in text
    assert not re.search(r"<button(?![^>]*disabled)", text)
    other.set_cookie(COOKIE, client.get_cookie(COOKIE).value)
    answer = press(other, page, "/train")
    assert (answer.status_code, answer.mimetype) == (503, "text/html")


def test_without_label_studio_the_page_says_which_setting_is_missing(service, project):
    alone = Service(replace(service.settings, label_studio_url=""))
    text = create_app(alone.settings, alone).test_client().get("/").text
    assert "LABEL_STUDIO_URL is not set" in text and "Project 1" in text


def test_the_doctors_findings_are_shown_the_worst_first(client, project, monkeypatch):
    found = [
        Finding("Redis", "ok", "9.1"),
        Finding("Webhook", "fail", f"missing {EVIL}", "Run `skylight doctor --fix`."),
        Finding("Sampling", "warn", "sequential", "Choose another."),
    ]
    monkeypatch.setattr(doctor, "findings", lambda service: found)
    text = client.get("/").text
    assert text.index("Webhook") < text.index("Sampling") < text.index("Redis")
    assert "finds 3 things to put right" in text and "none runs" in text  # no worker: looked at anew for each page
    assert "<code>skylight doctor --fix</code>" in text and EVIL not in text


def test_the_title_and_the_images_ready_come_when_label_studio_has_answered(client, studio, planted, project):
    studio.add_task(project, png(square(0)[0]))
    wait_until(lambda: "0 <small>of 1</small>" in client.get("/").text, 20)
    assert "Pits &lt;script&gt;" in client.get("/").text


def test_the_key_of_label_studio_is_not_on_the_page(client, learned):
    for path in ("/", f"/projects/{learned}", f"/projects/{learned}/versions/1"):
        assert KEY not in client.get(path).text


def test_the_pages_files_are_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "skylight.backend.web.page"
    ]
    packed = {path for pattern in patterns for path in (ROOT / "backend/web/page").glob(pattern)}
    files = {path for path in (ROOT / "backend").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len(files) >= 9 and files <= packed
