"""Label Studio's labeling configuration: what a project asks for."""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, tostring

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from label_studio_sdk._extensions.label_studio_tools.core import label_config

from skylight.backend.errors import ConfigError
from skylight.backend.limits import MAX_CONFIG, MAX_NAMES, MAX_TAGS, MAX_XML_DEPTH
from skylight.backend.settings import OUTPUTS

KINDS = tuple(f"{kind}labels" for kind in OUTPUTS)  # of controls for masks, preferred first
POINT, BOX, VECTOR, ELLIPSE = "keypointlabels", "rectanglelabels", "vectorlabels", "ellipselabels"
MAX_LABELS = 254  # a label map has 8 bits; 0 is background, 255 is ignore
ADD_OUTPUT = '<BrushLabels name="brush" toName="image" smart="false"><Label value="..."/></BrushLabels>'
REPEATED = "{{"  # begins the place of a number in names inside a Repeater
INSTEAD_OF_REPEATER = 'show several pictures by <Image name="image" valueList="$images"/>, or one outside of it'
ADD_IMAGE = '<Image name="image" value="$image"/>'
FIELD = re.compile(r"\$[^$/{}]+")  # the value of an Image: a field of the task's data, or a path into it
WANTED = "BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels (closable) or RectangleLabels"

# What the SDK's parser and this module ask for by name, which case matters to; of other tags it is read in any case.
TAGS = {name.lower(): name for name in ("Label", "Choice", "Relation", "Filter")}
ATTRIBUTES = {
    name.lower(): name
    for name in (
        "name", "toName", "value", "valueList", "alias", "predicted_values", "smart", "smartOnly", "closable",
        "indexFlag", "apiUrl", "perRegion", "whenTagName", "whenLabelValue", "whenChoiceValue",
    )
}  # fmt: skip

_parse: Callable[[str], dict[str, dict[str, Any]]] = label_config.parse_config


@dataclass(frozen=True)
class Output:
    """A control that takes masks of one image."""

    name: str  # from_name
    type: str  # "brushlabels", "bitmasklabels", "polygonlabels", "vectorlabels" or "rectanglelabels"
    image: str  # to_name
    data_key: str  # where the image's picture is in a task's data: a key, or a path such as `images[0].url`
    labels: tuple[str, ...]  # as results name them (by alias, if it has one)
    also: tuple[tuple[str, ...], ...]  # other names of each: as the editor shows it, and its `predicted_values`
    smart: bool  # whether it is a rectangle that prompts are drawn with

    def spelled(self, label: str) -> str:
        """The control's own name of a label, which another may spell otherwise; "" if it does not have it."""
        at = find_label(label, self.labels, self.also)
        return "" if at is None else self.labels[at]


@dataclass(frozen=True)
class Control:
    """Any control of a configuration, of whatever type."""

    type: str  # in small letters, as in results: "brushlabels", "choices", ..
    to: tuple[str, ...]  # names of what it is for
    labels: tuple[str, ...]  # or choices, as results name them


@dataclass(frozen=True)
class Labeling:
    """What a labeling configuration asks for.

    Clicks are answered on every image that has a control for masks. Learned from, and pre-annotated, is one of them,
    `image`: that of the first control of the most preferred kind (`KINDS`). `labels` are those of all its
    controls in the order of the configuration, each once, as a project has one decoder.
    """

    image: str  # name of the Image tag that is learned from: to_name
    data_key: str  # where its picture is in a task's data
    labels: tuple[str, ...]  # as results name them (by alias, if it has one)
    also: tuple[tuple[str, ...], ...]  # other names of each
    prompts: tuple[str, ...]  # names of the smart point and rectangle controls
    outputs: tuple[Output, ...]  # of all images, the one preferred first

    @property
    def control(self) -> str:
        """Name of the control that the image's first label goes to."""
        return self.output(self.labels[0]).name

    @property
    def type(self) -> str:
        """Type of that control."""
        return self.output(self.labels[0]).type

    def number(self, label: str) -> int:
        """The label's number in a label map, 1 for the first, 0 if unknown. Case counts only if it must."""
        at = find_label(label, self.labels, self.also)
        return 0 if at is None else at + 1

    def output(self, label: str, image: str = "") -> Output:
        """The control that an image's masks of a label go to; of the image that is learned from, if none is named.

        Raises ConfigError if there is none.
        """
        image = image or self.image
        for each in self.outputs:
            if each.image == image and each.spelled(label):
                return each
        there = sorted({name for each in self.outputs if each.image == image for name in each.labels})
        known = ", ".join(there) or "no labels at all"
        raise ConfigError(f"no control for masks of {image!r} has label {label!r}, only {known}; add it to the config")

    def takes(self, control: str, label: str) -> bool:
        """Whether masks of a label go to this control, on whatever image."""
        return any(
            each.name == control and each.spelled(label) and self.output(label, each.image) == each
            for each in self.outputs
        )


def find_label(label: str, labels: Sequence[str], also: Sequence[Sequence[str]]) -> int | None:
    """Where a label is among some that each have other names.

    One that differs by how its accents are encoded, or by case, only if none is equal.
    """
    names = [(name,) for name in labels]
    for form in (str, _composed, _caseless):
        wanted = form(label)
        for each in (names, also):
            for at, known in enumerate(each):
                if wanted in map(form, known):
                    return at
    return None


@functools.lru_cache(maxsize=2 * MAX_NAMES)
def _composed(name: str) -> str:
    """A name with its accents in one way, which file systems spell in two."""
    return unicodedata.normalize("NFC", name)


@functools.lru_cache(maxsize=2 * MAX_NAMES)
def _caseless(name: str) -> str:
    return _composed(_composed(name).casefold())


def parse_config(xml: str, output: str = "") -> Labeling:
    """What a project asks for, from its XML; `output` is the preferred kind (one of `OUTPUTS`), "" without one.

    A smart rectangle is a prompt, and takes masks only where nothing else does or it is asked for by `output`.
    Raises ConfigError, which says what to add, if it is not XML, has no Image, or no control for masks with labels.
    """
    root, tags = _tags(xml)
    attributes = {tag.get("name", ""): tag.attrib for tag in root.iter()}
    images = [tag.get("name", "") for tag in root.iter() if tag.tag.lower() == "image"]
    if not images:
        raise ConfigError(f"the labeling configuration has no Image; add {ADD_IMAGE}")
    found = _outputs(tags, images, attributes)
    usual = sorted(found, key=lambda each: (each.smart, KINDS.index(each.type)))
    image = usual[0].image
    # A smart rectangle's labels come last: where there are other controls it rarely has one of its own.
    labels, also = _union(sorted((each for each in found if each.image == image), key=lambda each: each.smart))
    if not 0 < len(labels) <= MAX_LABELS:
        raise ConfigError(f"control {usual[0].name!r} has {len(labels)} labels; give it 1 to {MAX_LABELS} <Label> tags")
    served = {each.image for each in found}
    prompts = [name for name, tag in tags.items() if tag["type"].lower() in (POINT, BOX) and served & {*tag["to_name"]}]
    return Labeling(
        image=image,
        data_key=usual[0].data_key,
        labels=labels,
        also=also,
        prompts=tuple(name for name in prompts if _is_smart(attributes[name])),
        outputs=tuple(sorted(usual, key=lambda each: each.type != f"{output}labels")),
    )


def controls(xml: str) -> dict[str, Control]:
    """All controls of a configuration by name, those for masks and any other. Raises ConfigError if it is not XML."""
    tags = _tags(xml)[1]
    return {name: Control(tag["type"].lower(), (*tag["to_name"],), (*tag["labels"],)) for name, tag in tags.items()}


def _tags(xml: str) -> tuple[Element, dict[str, dict[str, Any]]]:
    if len(xml) > MAX_CONFIG:
        raise ConfigError(f"the labeling configuration has {len(xml)} characters, more than {MAX_CONFIG}; shorten it")
    try:
        root: Element = fromstring(xml, forbid_dtd=True)  # entities could be made to unfold without end
        _check_shape(root)
        _spell(root)
        # Written anew: the SDK's parser refuses an encoding declaration, and need not meet foreign XML.
        return root, _parse(tostring(root, encoding="unicode"))
    except DefusedXmlException as error:
        raise ConfigError("the labeling configuration has a DOCTYPE or entities; remove them") from error
    except (ParseError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"the labeling configuration is not valid XML: {error}; correct it and save") from error


def _spell(root: Element) -> None:
    """Give tags and attributes the case that they have in Label Studio's documentation; its editor takes any."""
    for tag in root.iter():
        tag.tag = TAGS.get(tag.tag.lower(), tag.tag)
        for name in [name for name in tag.attrib if name not in ATTRIBUTES.values()]:
            spelled = ATTRIBUTES.get(name.lower())
            if spelled and spelled not in tag.attrib:
                tag.set(spelled, tag.attrib.pop(name))


def _check_shape(root: Element) -> None:
    """Raises ConfigError for more tags, or tags deeper in each other, than can be read at once."""
    if (count := sum(1 for _ in root.iter())) > MAX_TAGS:
        raise ConfigError(f"the labeling configuration has {count} tags, more than {MAX_TAGS}; drop some")
    level = [root]
    for _ in range(MAX_XML_DEPTH):
        level = [child for each in level for child in each]
        if not level:
            return
    raise ConfigError(f"the labeling configuration has tags more than {MAX_XML_DEPTH} deep in each other; flatten it")


def _outputs(
    tags: Mapping[str, Mapping[str, Any]], images: Sequence[str], attributes: Mapping[str, Mapping[str, str]]
) -> list[Output]:
    """The controls that take masks of an image, in the order of the configuration. Raises ConfigError without one."""
    found, unusable = [], ""
    for name, tag in tags.items():
        kind = tag["type"].lower()
        if kind not in KINDS or (kind == VECTOR and attributes[name].get("closable", "").lower() != "true"):
            continue  # a vector that is not closable is a line
        labels = tuple(tag["labels"])
        also = tuple(_also(label, tag["labels_attrs"][label]) for label in labels)
        for image in tag["to_name"]:
            value = attributes.get(image, {}).get("value") or attributes.get(image, {}).get("valueList") or ""
            if REPEATED in name + image + value:
                unusable = f"control {name!r} is in a Repeater, which is not read; {INSTEAD_OF_REPEATER}"
            elif image in images and FIELD.fullmatch(value):
                smart = kind == BOX and _is_smart(attributes[name])
                found.append(Output(name, kind, image, value[1:], labels, also, smart))
            elif image in images:
                unusable = f"Image {image!r} has value {value!r}, not a field of the task's data; use {ADD_IMAGE}"
    if not found:
        raise ConfigError(unusable or f"the labeling configuration has no {WANTED} for an Image; add {ADD_OUTPUT}")
    names = sum(len(each.labels) + sum(map(len, each.also)) for each in found)
    if names > MAX_NAMES:
        raise ConfigError(f"the labeling configuration has {names} names of labels for masks, more than {MAX_NAMES}")
    return [each for each in found if each.labels] or found


def _also(label: str, attributes: Mapping[str, str]) -> tuple[str, ...]:
    predicted = (name.strip() for name in attributes.get("predicted_values", "").split(","))
    return tuple(name for name in (attributes.get("value", label), *predicted) if name and name != label)


def _union(outputs: Sequence[Output]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Labels and their other names, over some controls; what one control calls two labels stays two."""
    labels: list[str] = []
    also: list[tuple[str, ...]] = []
    for each in outputs:
        held = _find_all(each.labels, labels, also)
        for name, others, at in zip(each.labels, each.also, held, strict=True):
            if at is None:
                labels.append(name)
                also.append(others)
            else:
                also[at] = tuple(dict.fromkeys((*also[at], *others)))
    return tuple(labels), tuple(also)


def _find_all(names: Sequence[str], labels: Sequence[str], also: Sequence[Sequence[str]]) -> list[int | None]:
    """`find` for the labels of one control: no two of them are the same; the one spelled alike comes first."""
    found = [labels.index(name) if name in labels else None for name in names]
    for i, name in enumerate(names):
        at = find_label(name, labels, also) if found[i] is None else None
        if at is not None and at not in found:
            found[i] = at
    return found


def _is_smart(attributes: Mapping[str, str]) -> bool:
    """As the editor sees it: smart unless said otherwise."""
    return attributes.get("smart", "true").lower() != "false" or attributes.get("smartOnly", "").lower() == "true"
