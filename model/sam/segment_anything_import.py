"""segment-anything's networks, without the rest of its package.

Its `__init__` imports torchvision, which takes 170 MB of memory and a second for what nothing here uses. So the
modules wanted are imported beside it; whoever imports `segment_anything` itself gets all of it, with these same
classes.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LayerNorm2d", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer", "sam_model_registry"]


@contextmanager
def _bare(name: str) -> Iterator[None]:
    """While it lasts, a package's modules can be imported without its `__init__`, unless that has been."""
    if name in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"{name} is not installed; install Skylight with its dependencies", name=name)
    spec.loader = None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        yield
    finally:
        del sys.modules[name]


with _bare("segment_anything"):
    from segment_anything.build_sam import sam_model_registry
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from segment_anything.modeling.common import LayerNorm2d
