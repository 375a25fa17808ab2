"""The Label Studio SDK's codec of brush masks, to compare with Skylight's.

Loaded by its file: the package around it imports nltk, pandas and scikit-learn, which takes each test process seconds.
"""

import importlib.util
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    package = importlib.util.find_spec("label_studio_sdk")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "converter", "brush.py")
    spec = importlib.util.spec_from_file_location("label_studio_sdk_brush", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


brush = _load()
