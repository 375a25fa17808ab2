"""segment-anything's network classes, imported without the rest of its package.

Its `__init__` imports torchvision, which takes 170 MB of memory and a second and is not used here. So the modules are
imported without running it; importing `segment_anything` itself still gives all of it, with these same classes.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LayerNorm2d", "MaskDecoder", "PromptEncoder", "Sam", "TwoWayTransformer", "sam_model_registry"]


@contextmanager
def _without_init(name: str) -> Iterator[None]:
    """Within this context, a package's modules are imported without its `__init__`, unless that was imported before."""
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


with _without_init("segment_anything"):
    from segment_anything.build_sam import sam_model_registry
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    from segment_anything.modeling.common import LayerNorm2d
