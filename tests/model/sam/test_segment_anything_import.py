"""segment-anything's classes without its package's `__init__`."""

import subprocess
import sys


def test_torchvision_is_not_imported_and_the_package_itself_has_the_same_classes() -> None:
    program = """
import sys
import skylight.model.sam.segmenter
from skylight.model.sam.segment_anything_import import Sam
assert not [name for name in sys.modules if name.split(".")[0] == "torchvision"]
assert "segment_anything" not in sys.modules
import segment_anything
from segment_anything.modeling import Sam as theirs
assert Sam is theirs and segment_anything.SamPredictor
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
