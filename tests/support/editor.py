"""Regions as the editor sends them, on an image of 80 x 60 px."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.brush_rle import encode_rle

RNG = np.random.default_rng(20230513)
LABELS = '<Label value="Dog"/><Label value="Object"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image" smart="false">{LABELS}</BrushLabels>
<KeyPointLabels name="kp" toName="image" smart="true">{LABELS}</KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true">{LABELS}</RectangleLabels>
<RectangleLabels name="plain" toName="image" smart="false">{LABELS}</RectangleLabels></View>"""
SIZE = (60, 80)


def item(type: str, control: str, value: dict[str, Any], label: str = "Dog", **more: Any) -> dict[str, Any]:
    """A region of a type, of a control."""
    value = {**value, type: [label]} if label else value
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {"id": "r1", "from_name": control, "to_name": "image", "type": type, "value": value, **size, **more}


def point(x: float, y: float, **more: Any) -> dict[str, Any]:
    """A key point at x, y percent."""
    return item("keypointlabels", more.pop("control", "kp"), {"x": x, "y": y, "width": 0.3}, **more)


def box(x: float, y: float, width: float, height: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    """A rectangle, in percent and degrees."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return item("rectanglelabels", more.pop("control", "rect"), value, **more)


def brushed(mask: NDArray[np.bool_], **more: Any) -> dict[str, Any]:
    """A brush region of a (60, 80) bool mask."""
    return item("brushlabels", "brush", {"format": "rle", "rle": encode_rle(mask)}, **more)


def polygon(*points: tuple[float, float], **more: Any) -> dict[str, Any]:
    """A polygon through points, x, y percent."""
    return item("polygonlabels", "polygon", {"points": [list(each) for each in points], "closed": True}, **more)


def vector(*vertices: dict[str, Any] | tuple[float, float], closed: bool = True, **more: Any) -> dict[str, Any]:
    """A vector through vertices, x, y percent or whole vertices."""
    whole = [each if isinstance(each, dict) else {"x": each[0], "y": each[1]} for each in vertices]
    return item("vectorlabels", "vector", {"vertices": whole, "closed": closed}, **more)
