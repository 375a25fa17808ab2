"""Label Studio's labeling configuration: the controls for masks, their labels and images."""

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

OUTPUT_TYPES = tuple(f"{kind}labels" for kind in OUTPUTS)  # of controls for masks, preferred first
POINT, BOX, VECTOR, ELLIPSE = "keypointlabels", "rectanglelabels", "vectorlabels", "ellipselabels"
MAX_LABELS = 254  # a label map has 8 bits; 0 is background, 255 is ignore
ADD_OUTPUT = '<BrushLabels name="brush" toName="image" smart="false"><Label value="..."/></BrushLabels>'
REPEATER_INDEX = "{{"  # begins the place of a number in names inside a Repeater
INSTEAD_OF_REPEATER = 'show several pictures by <Image name="image" valueList="$images"/>, or one outside of it'
ADD_IMAGE = '<Image name="image" value="$image"/>'
DATA_FIELD = re.compile(r"\$[^$/{}]+")  # the value of an Image: a field of the task's data, or a path into it
OUTPUT_TAGS = "BrushLabels, BitmaskLabels, PolygonLabels, VectorLabels (closable) or RectangleLabels"

# Names that the SDK's parser and this module look up case-sensitively; other tags are read in any case.
TAG_NAMES = {name.lower(): name for name in ("Label", "Choice", "Relation", "Filter")}
ATTRIBUTE_NAMES = {
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
    other_names: tuple[tuple[str, ...], ...]  # other names of each: as the editor shows it, and its `predicted_values`
    smart: bool  # whether it is a rectangle that prompts are drawn with

    def own_label(self, label: str) -> str:
        """The control's own name of a label, which another control may spell differently; "" if it does not have it."""
        index = find_label(label, self.labels, self.other_names)
        return "" if index is None else self.labels[index]


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
    `image`: that of the first control of the most preferred kind (`OUTPUT_TYPES`). `labels` are those of all its
    controls in the order of the configuration, each once, as a project has one decoder.
    """

    image: str  # name of the Image tag that is learned from: to_name
    data_key: str  # where its picture is in a task's data
    labels: tuple[str, ...]  # as results name them (by alias, if it has one)
    other_names: tuple[tuple[str, ...], ...]  # other names of each
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
        index = find_label(label, self.labels, self.other_names)
        return 0 if index is None else index + 1

    def output(self, label: str, image: str = "") -> Output:
        """The control that an image's masks of a label go to; of the image that is learned from, if none is named.

        Raises ConfigError if there is none.
        """
        image = image or self.image
        outputs = [output for output in self.outputs if output.image == image]
        for output in outputs:
            if output.own_label(label):
                return output
        known = ", ".join(sorted({name for output in outputs for name in output.labels})) or "no labels at all"
        raise ConfigError(f"no control for masks of {image!r} has label {label!r}, only {known}; add it to the config")

    def takes(self, control: str, label: str) -> bool:
        """Whether masks of a label go to this control, on whatever image."""
        return any(
            output.name == control and output.own_label(label) and self.output(label, output.image) == output
            for output in self.outputs
        )


def find_label(label: str, labels: Sequence[str], other_names: Sequence[Sequence[str]]) -> int | None:
    """The index of a label among some that each have other names, None if it is none of them.

    One that differs by how its accents are encoded, or by case, only if none is equal.
    """
    own_names = [(name,) for name in labels]
    for normalize in (str, _composed, _caseless):
        normalized = normalize(label)
        for names_of_labels in (own_names, other_names):
            for index, names in enumerate(names_of_labels):
                if normalized in map(normalize, names):
                    return index
    return None


@functools.lru_cache(maxsize=2 * MAX_NAMES)
def _composed(name: str) -> str:
    """A name with its accents in one way, which file systems spell in two."""
    return unicodedata.normalize("NFC", name)


@functools.lru_cache(maxsize=2 * MAX_NAMES)
def _caseless(name: str) -> str:
    return _composed(_composed(name).casefold())


def parse_config(xml: str, preferred: str = "") -> Labeling:
    """Parse a labeling configuration; `preferred` is the kind of region preferred (one of `OUTPUTS`), or "".

    A smart rectangle is a prompt, and takes masks only where nothing else does or it is the one `preferred`.
    Raises ConfigError, which says what to add, if it is not XML, has no Image, or no control for masks with labels.
    """
    root, tags = _tags(xml)
    attributes = {tag.get("name", ""): tag.attrib for tag in root.iter()}
    images = [tag.get("name", "") for tag in root.iter() if tag.tag.lower() == "image"]
    if not images:
        raise ConfigError(f"the labeling configuration has no Image; add {ADD_IMAGE}")
    outputs = _outputs(tags, images, attributes)
    ranked = sorted(outputs, key=lambda output: (output.smart, OUTPUT_TYPES.index(output.type)))
    image = ranked[0].image
    # A smart rectangle's labels come last: where there are other controls it rarely has one of its own.
    of_image = sorted((output for output in outputs if output.image == image), key=lambda output: output.smart)
    labels, other_names = _union(of_image)
    if not 0 < len(labels) <= MAX_LABELS:
        raise ConfigError(
            f"control {ranked[0].name!r} has {len(labels)} labels; give it 1 to {MAX_LABELS} <Label> tags"
        )
    served = {output.image for output in outputs}
    prompts = [name for name, tag in tags.items() if tag["type"].lower() in (POINT, BOX) and served & {*tag["to_name"]}]
    return Labeling(
        image=image,
        data_key=ranked[0].data_key,
        labels=labels,
        other_names=other_names,
        prompts=tuple(name for name in prompts if _is_smart(attributes[name])),
        outputs=tuple(sorted(ranked, key=lambda output: output.type != f"{preferred}labels")),
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
        tag.tag = TAG_NAMES.get(tag.tag.lower(), tag.tag)
        for name in [name for name in tag.attrib if name not in ATTRIBUTE_NAMES.values()]:
            spelled = ATTRIBUTE_NAMES.get(name.lower())
            if spelled and spelled not in tag.attrib:
                tag.set(spelled, tag.attrib.pop(name))


def _check_shape(root: Element) -> None:
    """Raise ConfigError for more tags, or tags deeper in each other, than can be read at once."""
    if (count := sum(1 for _ in root.iter())) > MAX_TAGS:
        raise ConfigError(f"the labeling configuration has {count} tags, more than {MAX_TAGS}; drop some")
    level = [root]
    for _ in range(MAX_XML_DEPTH):
        level = [child for tag in level for child in tag]
        if not level:
            return
    raise ConfigError(f"the labeling configuration has tags more than {MAX_XML_DEPTH} deep in each other; flatten it")


def _outputs(
    tags: Mapping[str, Mapping[str, Any]], images: Sequence[str], attributes: Mapping[str, Mapping[str, str]]
) -> list[Output]:
    """The controls that take masks of an image, in the order of the configuration. Raises ConfigError without one."""
    outputs, unusable = [], ""
    for name, tag in tags.items():
        kind = tag["type"].lower()
        if kind not in OUTPUT_TYPES or (kind == VECTOR and attributes[name].get("closable", "").lower() != "true"):
            continue  # a vector that is not closable is a line
        labels = tuple(tag["labels"])
        other_names = tuple(_other_names(label, tag["labels_attrs"][label]) for label in labels)
        for image in tag["to_name"]:
            value = attributes.get(image, {}).get("value") or attributes.get(image, {}).get("valueList") or ""
            if REPEATER_INDEX in name + image + value:
                unusable = f"control {name!r} is in a Repeater, which is not read; {INSTEAD_OF_REPEATER}"
            elif image in images and DATA_FIELD.fullmatch(value):
                smart = kind == BOX and _is_smart(attributes[name])
                outputs.append(Output(name, kind, image, value[1:], labels, other_names, smart))
            elif image in images:
                unusable = f"Image {image!r} has value {value!r}, not a field of the task's data; use {ADD_IMAGE}"
    if not outputs:
        raise ConfigError(unusable or f"the labeling configuration has no {OUTPUT_TAGS} for an Image; add {ADD_OUTPUT}")
    names = sum(len(output.labels) + sum(map(len, output.other_names)) for output in outputs)
    if names > MAX_NAMES:
        raise ConfigError(f"the labeling configuration has {names} names of labels for masks, more than {MAX_NAMES}")
    return [output for output in outputs if output.labels] or outputs


def _other_names(label: str, attributes: Mapping[str, str]) -> tuple[str, ...]:
    predicted = (name.strip() for name in attributes.get("predicted_values", "").split(","))
    return tuple(name for name in (attributes.get("value", label), *predicted) if name and name != label)


def _union(outputs: Sequence[Output]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Labels and their other names, over some controls; what one control calls two labels stays two."""
    labels: list[str] = []
    other_names: list[tuple[str, ...]] = []
    for output in outputs:
        indices = _find_all(output.labels, labels, other_names)
        for name, others, index in zip(output.labels, output.other_names, indices, strict=True):
            if index is None:
                labels.append(name)
                other_names.append(others)
            else:
                other_names[index] = tuple(dict.fromkeys((*other_names[index], *others)))
    return tuple(labels), tuple(other_names)


def _find_all(names: Sequence[str], labels: Sequence[str], other_names: Sequence[Sequence[str]]) -> list[int | None]:
    """`find_label` for the labels of one control: no two of them are the same; the one spelled alike comes first."""
    indices = [labels.index(name) if name in labels else None for name in names]
    for i, name in enumerate(names):
        index = find_label(name, labels, other_names) if indices[i] is None else None
        if index is not None and index not in indices:
            indices[i] = index
    return indices


def _is_smart(attributes: Mapping[str, str]) -> bool:
    """Whether the editor takes a control as smart: unless its attributes say otherwise."""
    return attributes.get("smart", "true").lower() != "false" or attributes.get("smartOnly", "").lower() == "true"
