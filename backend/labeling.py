"""Label Studio's labeling configuration: what a project asks for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from label_studio_sdk._extensions.label_studio_tools.core import label_config

from backend.errors import ConfigError

OUTPUTS = ("brushlabels", "bitmasklabels")  # in order of preference
POINT, BOX = "keypointlabels", "rectanglelabels"
MAX_LABELS = 254  # a label map has 8 bits; 0 is background, 255 is ignore
ADD_OUTPUT = '<BrushLabels name="brush" toName="image" smart="false"><Label value="..."/></BrushLabels>'
ADD_IMAGE = '<Image name="image" value="$image"/>'

_parse: Callable[[str], dict[str, dict[str, Any]]] = label_config.parse_config


@dataclass(frozen=True)
class Labeling:
    """What a labeling configuration asks for: one image, and one control that takes masks of it."""

    image: str  # name of the Image tag: to_name
    data_key: str  # key of the picture in a task's data
    control: str  # name of the control masks go to: from_name
    type: str  # "brushlabels" or "bitmasklabels"
    labels: tuple[str, ...]  # as results name them (by alias, if it has one), in the order of the config
    shown: tuple[str, ...]  # the same labels as the editor shows them
    prompts: tuple[str, ...]  # names of the smart point and rectangle controls of the image

    def number(self, label: str) -> int:
        """The label's number in a label map, 1 for the first, 0 if unknown. Case counts only if it must."""
        for names in (self.labels, self.shown):
            if label in names:
                return names.index(label) + 1
        folded = [name.casefold() for name in self.labels]
        return folded.index(label.casefold()) + 1 if label.casefold() in folded else 0


def parse_config(xml: str) -> Labeling:
    """What a project asks for, from its XML; the first BrushLabels takes the masks, else BitmaskLabels.

    Raises ConfigError, which says what to add, if it is not XML, has no Image, or no such control with
    labels for it.
    """
    try:
        root = ElementTree.fromstring(xml)
        # Written anew: the SDK's parser refuses an encoding declaration, and need not meet foreign XML.
        tags = _parse(ElementTree.tostring(root, encoding="unicode"))
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise ConfigError(f"the labeling configuration is not valid XML: {error}; correct it and save") from error
    attributes = {tag.get("name", ""): tag.attrib for tag in root.iter()}
    images = [tag.get("name", "") for tag in root.iter() if tag.tag.lower() == "image"]
    if not images:
        raise ConfigError(f"the labeling configuration has no Image; add {ADD_IMAGE}")
    control, image = _output(tags, images)
    labels: list[str] = tags[control]["labels"]
    if not 0 < len(labels) <= MAX_LABELS:
        raise ConfigError(f"control {control!r} has {len(labels)} labels; give it 1 to {MAX_LABELS} <Label> tags")
    return Labeling(
        image=image,
        data_key=_data_key(image, attributes[image]),
        control=control,
        type=tags[control]["type"].lower(),
        labels=tuple(labels),
        shown=tuple(tags[control]["labels_attrs"][label].get("value", label) for label in labels),
        prompts=tuple(
            name
            for name, tag in tags.items()
            if tag["type"].lower() in (POINT, BOX) and image in tag["to_name"] and _is_smart(attributes[name])
        ),
    )


def _output(tags: Mapping[str, Mapping[str, Any]], images: Sequence[str]) -> tuple[str, str]:
    for kind in OUTPUTS:
        for name, tag in tags.items():
            image = next((image for image in tag["to_name"] if image in images), None)
            if tag["type"].lower() == kind and image is not None:
                return name, image
    raise ConfigError(f"the labeling configuration has no BrushLabels or BitmaskLabels for an Image; add {ADD_OUTPUT}")


def _data_key(image: str, attributes: Mapping[str, str]) -> str:
    value = attributes.get("value") or attributes.get("valueList") or ""
    if not value.startswith("$") or len(value) < 2:
        raise ConfigError(f"Image {image!r} has value {value!r}, not a field of the task's data; use {ADD_IMAGE}")
    return value[1:]


def _is_smart(attributes: Mapping[str, str]) -> bool:
    """As the editor sees it: smart unless said otherwise."""
    return attributes.get("smart", "true").lower() != "false" or attributes.get("smartOnly", "").lower() == "true"
