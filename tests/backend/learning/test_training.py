"""From samples to a version, and whether it is served. The pictures are easy: one bright square each."""

import itertools
import mmap
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load

from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning import training
from skylight.backend.learning.agreement import summarize
from skylight.backend.learning.dataset import by_task, load_sample, load_task
from skylight.backend.learning.gate import decide_promotion
from skylight.backend.learning.ingest import save_config
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.inference import predict
from skylight.model.decoder.sample_spill import SampleSpill
from skylight.model.decoder.training import TrainConfig, Trained
from skylight.model.decoder.validation_split import in_validation
from skylight.model.evaluation.metrics import iou
from skylight.model.images.decoding import content_hash
from skylight.model.masks.label_map import IGNORE
from skylight.model.storage.checksums import seal, unseal
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, png, square
from tests.support.random_weights import forget_layout

LABELING = parse_config(CONFIG)
GOOD = TrainConfig(steps=30, batch=4, check_every=10)
BAD = TrainConfig(steps=1, batch=1)
TWO = 2  # validation tasks: enough for those tests that ask for them to be measured on
PIT = CONFIG.partition("<Label ")[2].partition("/>")[0]


def labelled(*names: str) -> str:
    """The demo's configuration with other labels."""
    labels = "".join(f'<Label value="{name}"/>' for name in names)
    return CONFIG.replace(f"<Label {PIT}/>", labels)


def validates(number: int, seed: int = 0) -> bool:
    """Whether a task's square is on the side of the validation images."""
    return in_validation(content_hash(png(square(seed + number)[0])))


def task_numbers(validation: bool, seed: int = 0):
    return (number for number in itertools.count(1) if validates(number, seed) == validation)


@pytest.fixture
def project(planted, studio) -> str:
    planted.recipe = GOOD
    return studio.add_project()


def annotate(service, studio, project, training=0, validation=0, empty=False, seed=0) -> None:
    """Submit squares on new tasks that train or validate, and ingest them."""
    for count, side in ((training, False), (validation, True)):
        free = (number for number in task_numbers(side, seed) if number not in studio.tasks)
        for number in itertools.islice(free, count):
            image, mask = square(seed + number)
            task = studio.add_task(project, png(image), number)
            studio.annotate(task, [] if empty else [brush(LABELING, mask)])
    reconcile(service, project)


def test_nothing_is_trained_before_there_are_enough_tasks(planted, studio, project):
    annotate(planted, studio, project, training=2)
    assert train_version(planted, project) == 0
    task = min(studio.tasks)
    studio.annotate(task, [brush(LABELING, square(9)[1])])  # a second annotation is not a third task
    reconcile(planted, project)
    assert len(planted.store.samples(project)) == 3
    assert train_version(planted, project) == 0
    annotate(planted, studio, project, training=1)
    assert train_version(planted, project) == 1


def test_nothing_is_learned_from_nothing_but_background(planted, studio, project):
    annotate(planted, studio, project, training=4, empty=True)
    assert train_version(planted, project) == 0
    assert planted.versions.numbers(project) == []


def test_the_first_version_is_promoted_and_finds_what_it_was_taught(planted, studio, project):
    annotate(planted, studio, project, training=5)
    assert train_version(planted, project) == 1
    assert planted.version_name(project) == "skylight-1"
    image, mask = square(1000)
    decoder = planted.decoder_for(project, LABELING)
    found = predict(decoder, planted.embedder.segmenter.embed(image)).argmax(0) == 1
    assert iou(found, mask) > 0.7


def test_the_card_says_what_it_was_made_of_and_how_good_it_is(planted, studio, project):
    annotate(planted, studio, project, training=3, validation=1)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    records = planted.store.samples(project)
    assert card["annotations"] == {str(r.annotation): r.updated_at for r in records}
    assert (card["labels"], card["encoder_id"]) == (["Pit"], "planted-1")
    assert card["recipe"]["steps"] == 30 and 0 < card["steps"] <= 30
    assert card["validation"]["iou"].keys() == {"Pit"}
    assert (card["promoted"], card["version"]) == (True, 1)
    assert card["temperature"] == pytest.approx(planted.decoder_for(project, LABELING).config.temperature, abs=1e-4)
    assert 0 <= card["ece"] <= 1


def test_with_few_validation_tasks_all_are_learned_from_and_cross_validated(planted, studio, project):
    annotate(planted, studio, project, training=3, validation=1)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    tasks = {str(number) for number in studio.tasks}
    assert card["cross_validated"] and card["per_task"].keys() == tasks and card["trained_on"] == sorted(tasks)
    assert (card["training_images"], card["validation_images"]) == (4, 0)
    assert card["validation"]["mean_iou"] > 0.3


def test_with_enough_validation_tasks_the_others_are_learned_from(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, training=3, validation=2)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    validation = {str(number) for number in studio.tasks if validates(number)}
    assert not card["cross_validated"] and card["per_task"].keys() == validation
    assert card["trained_on"] == sorted({str(number) for number in studio.tasks} - validation)
    assert (card["training_images"], card["validation_images"]) == (3, 2)


def test_a_single_image_is_learned_from_and_nothing_is_claimed_of_it(planted, studio, project):
    planted.settings = replace(planted.settings, min_annotations=1)
    annotate(planted, studio, project, validation=1)
    assert train_version(planted, project) == 1
    card = planted.versions.card(project, 1)
    assert (card["cross_validated"], card["validation"], card["per_task"], card["ece"]) == (False, None, {}, None)
    assert card["trained_on"] == [str(number) for number in studio.tasks]
    planted.recipe = BAD
    assert train_version(planted, project) == 2


@pytest.mark.parametrize(("drawn", "separate"), [("one", []), ("two", ["Pit"]), ("two in one", [])])
def test_objects_are_separated_only_if_touching_ones_were_drawn_one_by_one(planted, studio, project, drawn, separate):
    planted.settings = replace(planted.settings, min_annotations=1)
    planted.recipe = BAD
    image, mask = square(0)
    left = mask & (np.cumsum(mask, 1) <= 12)
    regions = {"one": [mask], "two": [left, mask & ~left], "two in one": [mask | np.roll(mask, 32, 1)]}[drawn]
    studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, region) for region in regions])
    reconcile(planted, project)
    (record,) = planted.store.samples(project)
    sample = load_sample(planted, planted.embedder, project, LABELING, record)
    assert (sample.instances == {"one": mask, "two": 2 * mask - left, "two in one": 0 * mask}[drawn]).all()
    train_version(planted, project)
    assert planted.versions.card(project, 1)["separate"] == separate
    assert planted.decoder_for(project, LABELING).config.separate == tuple(separate)


def test_samples_on_disk_teach_what_those_in_memory_do(planted, studio, project, monkeypatch):
    annotate(planted, studio, project, training=4, validation=2)
    train_version(planted, project)
    monkeypatch.setattr(training, "IN_MEMORY", 0)
    monkeypatch.setattr(training, "FORGET_EVERY", 1)
    monkeypatch.setattr(training, "reason_to_wait", lambda *_: "")
    put, real = [], SampleSpill.put
    monkeypatch.setattr(SampleSpill, "put", lambda *given: put.append(real(*given)) or put[-1])
    train_version(planted, project)
    assert len(put) == 6 and all(isinstance(each.label_map.base.base.obj, mmap.mmap) for each in put)
    first, second = (load(planted.versions.weights(project, number)) for number in (1, 2))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_sample_of_before_there_were_objects_trains(planted, studio, project):
    annotate(planted, studio, project, training=3)
    for record in planted.store.samples(project):
        planted.store.put(project, record, planted.store.label_map(project, record))
    assert train_version(planted, project) == 1
    assert planted.versions.card(project, 1)["separate"] == []


def test_tasks_that_all_fell_to_validation_train(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, validation=3)
    assert train_version(planted, project) == 1
    assert planted.versions.card(project, 1)["training_images"] == 3


@pytest.mark.parametrize("enough", [TWO, 5])
def test_a_worse_version_is_published_but_not_served(planted, studio, project, enough):
    planted.recipe = replace(GOOD, enough=enough)
    annotate(planted, studio, project, training=4, validation=2)
    assert train_version(planted, project) == 1
    planted.recipe = replace(BAD, enough=enough)
    assert train_version(planted, project) == 0
    assert planted.versions.numbers(project) == [1, 2]
    assert planted.versions.current(project) == 1
    card = planted.versions.card(project, 2)
    kind = "on 2 images that neither has learned from" if enough == TWO else "on 6 images left out in cross-validation"
    assert not card["promoted"] and card["verdict"].startswith("kept back: mean IoU -") and kind in card["verdict"]


@pytest.mark.parametrize("enough", [TWO, 5])
def test_a_better_version_is_served(planted, studio, project, enough):
    annotate(planted, studio, project, training=4, validation=2)
    planted.recipe = replace(BAD, enough=enough)
    train_version(planted, project)
    planted.recipe = replace(GOOD, enough=enough)
    assert train_version(planted, project) == 2
    assert planted.versions.current(project) == 2
    assert planted.versions.card(project, 2)["verdict"].startswith("promoted: mean IoU +")


def test_a_current_version_is_not_asked_about_images_that_it_has_learned_from(planted, studio, project):
    annotate(planted, studio, project, training=3, validation=2)
    train_version(planted, project)  # of all five
    planted.recipe = replace(BAD, enough=TWO)
    assert train_version(planted, project) == 2
    assert "2 images that neither has learned from, not 0" in planted.versions.card(project, 2)["verdict"]
    planted.versions.promote(project, 1)
    annotate(planted, studio, project, validation=2)
    assert train_version(planted, project) == 0
    assert "on 2 images that neither has learned from" in planted.versions.card(project, 3)["verdict"]


def test_what_was_measured_otherwise_is_not_compared(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, training=3, validation=2)
    train_version(planted, project)
    planted.recipe = BAD  # cross-validated, against a version that was not
    assert train_version(planted, project) == 2
    assert "images left out in cross-validation by both, not 0" in planted.versions.card(project, 2)["verdict"]


@pytest.mark.parametrize(
    ("change", "promoted"), [((0, 0, 0), True), ((-0.02, -0.03, -0.02), False), ((-0.3, 0.2, 0.05), True)]
)
def test_the_gate_keeps_back_only_what_is_worse_beyond_the_noise(planted, studio, project, change, promoted):
    planted.recipe = replace(GOOD, enough=3)
    annotate(planted, studio, project, training=3, validation=3)
    train_version(planted, project)
    records = [r for r in planted.store.samples(project) if in_validation(r.image)]
    samples = [load_sample(planted, planted.embedder, project, LABELING, record) for record in records]
    current = planted.decoder_for(project, LABELING)
    held = validate(current, samples)
    known = planted.versions.card(project, 1)["per_task"]
    for task, difference in zip(held.per_task, change, strict=True):
        held.per_task[task] = known[task] + difference
    trained = Trained(current, held, False, 1, 0.0)
    assert decide_promotion(planted, project, LABELING, trained, samples)[1] is promoted


def test_a_version_whose_card_is_lost_does_not_stand_in_the_way(planted, studio, project):
    annotate(planted, studio, project, training=3)
    train_version(planted, project)
    current = planted.decoder_for(project, LABELING)
    (planted.files.path(planted.versions.folder(project)) / "1" / "card.json").unlink()
    trained = Trained(current, validate(current, []), True, 1, 0.0)
    verdict, promoted = decide_promotion(planted, project, LABELING, trained, [])
    assert promoted and "card.json" in verdict


def test_a_new_set_of_labels_is_served_at_once_and_old_maps_follow(planted, studio, project):
    both = parse_config(labelled("Pit", "Rock"))
    studio.projects[1]["label_config"] = labelled("Pit", "Rock")
    for number, label in zip(itertools.islice(task_numbers(False), 4), ("Pit", "Rock", "Pit", "Rock"), strict=True):
        image, mask = square(number)
        studio.annotate(studio.add_task(project, png(image), number), [brush(both, mask, label)])
    annotate(planted, studio, project, validation=2)
    train_version(planted, project)
    save_config(planted, project, labelled("Crater", "Rock"))  # Pit is gone, Rock stays second
    new = parse_config(labelled("Crater", "Rock"))
    assert planted.decoder_for(project, new) is None
    records = planted.store.samples(project)
    values = [
        set(np.unique(load_sample(planted, planted.embedder, project, new, record).label_map)) for record in records
    ]
    assert values.count({0, 2}) == 2 and values.count({0, IGNORE}) == 4
    planted.recipe = BAD  # whatever it can, the old one cannot speak these labels
    assert train_version(planted, project) == 2
    assert planted.decoder_for(project, new).config.labels == ("Crater", "Rock")
    assert planted.versions.card(project, 2)["verdict"].startswith("promoted")


def test_the_same_again_is_not_trained_again(planted, studio, project):
    annotate(planted, studio, project, training=3)
    assert train_version(planted, project) == 1
    assert train_version(planted, project) == 0
    assert planted.versions.numbers(project) == [1]
    planted.recipe = replace(GOOD, seed=1)
    assert train_version(planted, project) == 2
    annotation = studio.tasks[min(studio.tasks)]["annotations"][0]
    studio.update(annotation, annotation["result"])
    reconcile(planted, project)
    assert train_version(planted, project) == 3


def test_a_sample_whose_image_is_lost_is_left_out(planted, studio, project, caplog):
    annotate(planted, studio, project, training=4)
    lost = planted.store.samples(project)[0]
    planted.embedder.cache.path(lost.image).unlink()
    studio.pictures.clear()
    assert train_version(planted, project) == 1
    assert str(lost.annotation) not in planted.versions.card(project, 1)["annotations"]
    assert f"annotation {lost.annotation} is left out" in caplog.text


def test_an_embedding_that_is_lost_is_made_again(planted, studio, project):
    annotate(planted, studio, project, training=3)
    for record in planted.store.samples(project):
        planted.embedder.cache.path(record.image).unlink()
    train_version(planted, project)
    assert len(planted.versions.card(project, 1)["annotations"]) == 3


def test_an_image_that_changed_since_is_left_out(planted, studio, project, caplog):
    annotate(planted, studio, project, training=4)
    changed = planted.store.samples(project)[0]
    planted.embedder.cache.path(changed.image).unlink()
    studio.pictures[changed.url] = png(square(99)[0])
    train_version(planted, project)
    assert len(planted.versions.card(project, 1)["annotations"]) == 3
    assert "another image now" in caplog.text


def test_a_current_version_of_an_earlier_layout_is_trained_anew(planted, studio, project):
    annotate(planted, studio, project, training=3, validation=1)
    train_version(planted, project)
    forget_layout(planted.files.path(f"{planted.versions.folder(project)}/1/decoder.safetensors"))
    card = planted.files.path(planted.versions.folder(project)) / "1" / "card.json"
    card.write_bytes(seal({k: v for k, v in unseal(card.read_bytes()).items() if k not in ("layout", "sha256")}))
    planted._decoder.cache_clear()  # as after a restart
    assert train_version(planted, project) == 2
    assert planted.decoder_for(project, LABELING) is not None


@pytest.mark.parametrize("damage", ["gone", "half of it"])
def test_a_damaged_current_version_does_not_stand_in_the_way(planted, studio, project, damage):
    annotate(planted, studio, project, training=3, validation=1)
    train_version(planted, project)
    file = planted.files.path(f"{planted.versions.folder(project)}/1/decoder.safetensors")
    data = file.read_bytes()
    file.unlink()
    if damage == "half of it":
        file.write_bytes(data[: len(data) // 2])
    planted._decoder.cache_clear()  # as after a restart
    planted.recipe = replace(GOOD, seed=1)
    assert train_version(planted, project) == 2
    assert planted.decoder_for(project, LABELING) is not None


def test_only_what_counts_as_accepted_is_learned_from(planted, studio, project):
    planted.settings = replace(planted.settings, accept="ground_truth")
    annotate(planted, studio, project, training=4)
    assert train_version(planted, project) == 0
    marked = sorted(studio.tasks)[:3]
    for task in marked:
        studio.tasks[task]["annotations"][0].update(ground_truth=True, updated_at=studio.now())
    reconcile(planted, project)
    assert train_version(planted, project) == 1
    assert planted.versions.card(project, 1)["trained_on"] == sorted(str(task) for task in marked)


def test_it_is_trained_again_after_so_many_annotations_or_when_asked(planted, studio, project, caplog):
    caplog.set_level("INFO")
    planted.recipe = BAD
    planted.settings = replace(planted.settings, retrain_every=3)
    annotate(planted, studio, project, training=3)
    assert train_version(planted, project) == 1
    first, second, *_ = (task["annotations"] for task in studio.tasks.values())
    annotate(planted, studio, project, training=1)
    studio.update(first[0], first[0]["result"])
    reconcile(planted, project)
    assert train_version(planted, project) == 0 and "2 of 3 annotations differ from version 1's" in caplog.text
    studio.delete(second[0])
    reconcile(planted, project)
    assert train_version(planted, project) == 2
    annotate(planted, studio, project, training=1)
    assert train_version(planted, project) == 0
    assert train_version(planted, project, asked=True) == 3
    assert train_version(planted, project, asked=True) == 0  # nothing is new


def test_other_labels_are_trained_on_at_once(planted, studio, project):
    planted.recipe = BAD
    planted.settings = replace(planted.settings, retrain_every=50)
    annotate(planted, studio, project, training=3)
    train_version(planted, project)
    save_config(planted, project, labelled("Pit", "Rock"))
    assert train_version(planted, project) == 2


def another_opinion(studio, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotate a new task twice, the later time `shift` px to the right; gives both masks."""
    number = max(studio.tasks, default=0) + 1
    image, mask = square(number)
    task = studio.add_task("1.1", png(image), number)
    moved = np.roll(mask, shift, 1)
    for each in (mask, moved):
        studio.annotate(task, [brush(LABELING, each)])
    return mask, moved


def tasks_of(service, project, how):
    return [
        load_task(service, service.embedder, project, LABELING, each)
        for each in by_task(service.store.samples(project), how)
    ]


def test_of_several_annotators_the_newest_is_learned_from(planted, studio, project):
    _, newer = another_opinion(studio, 4)
    reconcile(planted, project)
    ((used, sample),) = tasks_of(planted, project, "newest")
    assert [each.annotation for each in used] == [102]
    assert (sample.label_map == newer).all()


def test_where_annotators_differ_the_majority_ignores(planted, studio, project):
    older, newer = another_opinion(studio, 4)
    reconcile(planted, project)
    ((used, sample),) = tasks_of(planted, project, "majority")
    assert [each.annotation for each in used] == [102, 101]
    assert (sample.label_map == np.where(older == newer, older, IGNORE)).all()
    assert ((sample.instances == 1) == (older & newer)).all()


@pytest.mark.parametrize(("consensus", "made_of"), [("newest", 3), ("majority", 6)])
def test_a_version_is_made_of_one_sample_for_each_task(planted, studio, project, consensus, made_of):
    planted.recipe = BAD
    planted.settings = replace(planted.settings, consensus=consensus)
    for _ in range(3):
        another_opinion(studio, 2)
    reconcile(planted, project)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    assert (len(card["annotations"]), len(card["per_task"]), card["training_images"]) == (made_of, 3, 3)
    planted.settings = replace(planted.settings, consensus="newest" if consensus == "majority" else "majority")
    train_version(planted, project)
    assert planted.versions.numbers(project) == [1, 2]


def test_a_task_of_which_nothing_can_be_read_is_left_out(planted, studio, project):
    another_opinion(studio, 4)
    reconcile(planted, project)
    for record in planted.store.samples(project):
        (planted.files.path(planted.store.folder(project)) / "samples" / record.label_map).unlink()
    assert tasks_of(planted, project, "majority") == [None]


def same_picture_twice(studio, project, count: int) -> dict[str, str]:
    """Annotate `count` pictures, each in two tasks; gives the picture of each task."""
    shows = {}
    for number in range(1, count + 1):
        image, mask = square(number)
        for _ in range(2):
            task = studio.add_task(project, png(image))
            studio.annotate(task, [brush(LABELING, mask)])
            shows[str(task)] = content_hash(png(image))
    return shows


def test_a_picture_in_two_tasks_is_on_one_side_of_the_split(planted, studio, project, monkeypatch):
    shows = same_picture_twice(studio, project, 12)
    reconcile(planted, project)
    sides = []

    def stop(training, validation, *_):
        sides.append([{sample.task for sample in side} for side in (training, validation)])
        raise ValueError("that is all")

    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(ValueError, match="that is all"):
        train_version(planted, project)
    ((learned, measured),) = sides
    assert learned | measured == shows.keys() and measured and learned
    assert not {shows[task] for task in learned} & {shows[task] for task in measured}


def test_the_card_has_the_pictures_and_the_error_of_its_figure(planted, studio, project):
    shows = same_picture_twice(studio, project, 3)
    reconcile(planted, project)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    assert card["trained_on_images"] == sorted(set(shows.values())) and card["per_task"].keys() == shows.keys()
    assert 0 < card["validation"]["error"] < 0.5
    assert summarize(card).error == card["validation"]["error"]
    assert summarize({"version": 3, "validation": {"mean_iou": 0.5}}).error is None  # of an earlier release


def as_before(service, project: str, number: int) -> None:
    """Make a version one of the release that split by tasks."""
    path = service.files.path(service.versions.folder(project)) / str(number) / "card.json"
    card = unseal(path.read_bytes())
    del card["trained_on_images"], card["validation"]["error"]
    path.write_bytes(seal(card))


def test_a_version_of_before_is_not_compared_on_images_that_chose_its_weights(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, training=3, validation=2)
    train_version(planted, project)
    as_before(planted, project, 1)
    planted.recipe = replace(BAD, enough=TWO)
    assert train_version(planted, project) == 2
    assert "2 images that neither has learned from, not 0" in planted.versions.card(project, 2)["verdict"]
    planted.versions.promote(project, 1)
    annotate(planted, studio, project, validation=2)
    assert train_version(planted, project) == 0  # on the new ones
    assert "kept back" in planted.versions.card(project, 3)["verdict"]


def test_a_version_of_before_is_not_compared_on_an_image_that_another_of_its_tasks_has_taught(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, training=3, validation=3)
    train_version(planted, project)
    card = planted.versions.card(project, 1)
    current, held = planted.decoder_for(project, LABELING), HeldOut(LABELING.labels)
    samples = [
        load_sample(planted, planted.embedder, project, LABELING, record)
        for record in planted.store.samples(project)
        if in_validation(record.image)
    ]
    twice = [replace(sample, task=f"{sample.task}0") for sample in samples]  # tasks that it does not know
    for sample in twice:
        held.add(current, sample)
    trained = Trained(current, held, False, 1, 0.0)
    (planted.files.path(planted.versions.folder(project)) / "1" / "card.json").write_bytes(
        seal({**{k: v for k, v in card.items() if k != "trained_on_images"}, "trained_on": [s.task for s in samples]})
    )
    assert "not 0" in decide_promotion(planted, project, LABELING, trained, [*samples, *twice])[0]
    assert "on 3 images" in decide_promotion(planted, project, LABELING, trained, twice)[0]


def test_a_picture_counts_once_at_the_gate(planted, studio, project):
    same_picture_twice(studio, project, 5)
    reconcile(planted, project)
    train_version(planted, project)
    planted.recipe = replace(GOOD, seed=1)
    train_version(planted, project)
    assert "on 5 images left out in cross-validation" in planted.versions.card(project, 2)["verdict"]
    as_before(planted, project, planted.versions.current(project))  # whose folds had a picture on both sides
    planted.recipe = replace(GOOD, seed=2)
    train_version(planted, project)
    assert "by both, not 0" in planted.versions.card(project, 3)["verdict"]


def test_images_that_chose_the_current_version_count_while_they_are_annotated_as_they_were(planted, studio, project):
    planted.recipe = replace(GOOD, enough=TWO)
    annotate(planted, studio, project, training=3, validation=4)
    train_version(planted, project)
    planted.recipe = replace(GOOD, enough=TWO, seed=1)
    train_version(planted, project)
    assert "on 4 images" in planted.versions.card(project, 2)["verdict"]
    planted.versions.promote(project, 1)
    number = next(number for number in studio.tasks if validates(number))
    (annotation,) = studio.tasks[number]["annotations"]
    studio.update(annotation, annotation["result"])
    reconcile(planted, project)
    train_version(planted, project)
    assert "on 3 images" in planted.versions.card(project, 3)["verdict"]
