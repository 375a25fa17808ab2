"""Finding a trained version by what a person calls its project."""

from dataclasses import replace

import pytest

from skylight.backend.errors import BadRequest, Unavailable
from skylight.backend.learning.version_lookup import find_project, find_version
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from tests.support.random_weights import forget_layout
from tests.support.trained_versions import PROJECT, publish


@pytest.fixture
def decoder(segmenter):
    return DomainDecoder(DecoderConfig(("Pit",), segmenter.encoder_id, context=112, detail=40)).eval()


def test_a_project_goes_by_its_number_or_by_its_whole_name(service, decoder):
    publish(service, decoder)
    publish(service, decoder, "11.2")
    assert find_project(service.store, "1") == find_project(service.store, PROJECT) == PROJECT


def test_a_project_that_is_not_there_or_not_the_only_one_is_named_with_those_that_are(service, decoder):
    with pytest.raises(BadRequest, match="project 1 is not in .*, there: none"):
        find_project(service.store, "1")
    publish(service, decoder)
    publish(service, decoder, "1.99")
    with pytest.raises(BadRequest, match=f"project 1 may be {PROJECT} or 1.99"):
        find_project(service.store, "1")


def test_the_version_that_is_served_is_taken_or_any_other(service, decoder):
    assert [publish(service, decoder) for _ in range(2)] == [1, 2]
    assert find_version(service, "1").name == "skylight-2"
    first = find_version(service, "1", 1)
    assert (first.number, first.card["version"], first.decoder.config) == (1, 1, decoder.config)
    with pytest.raises(Unavailable, match="no version 3; it has 1, 2"):
        find_version(service, "1", 3)


def test_a_project_without_a_version_that_can_be_used_is_said_to_be_so(service, decoder):
    service.store.save_config(PROJECT, "<View/>")
    with pytest.raises(Unavailable, match="it has none: annotate first"):
        find_version(service, "1")
    decoder.config = replace(decoder.config, encoder_id="vit_b-1")
    publish(service, decoder)
    with pytest.raises(Unavailable, match="reads embeddings of vit_b-1, not of tiny-"):
        find_version(service, "1")
    publish(service, decoder)
    forget_layout(service.files.path(f"{service.versions.folder(PROJECT)}/2/decoder.safetensors"))
    with pytest.raises(Unavailable, match="version 2 of project .* is of another release"):
        find_version(service, "1")
