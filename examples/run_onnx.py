"""Run a decoder that `skylight export` wrote: python run_onnx.py decoder.onnx picture.png classes.png

Needs onnxruntime, numpy and pillow, nothing else. Writes the classes as gray levels: 0 background, k the k-th label.
One band of more than 8 bits is brought to them as the pictures were that the decoder learned from.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, picture, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
image = Image.open(picture)
if image.mode.startswith(("I", "F")) and (known := json.loads(about["normalisation"])["range"]):
    low, high = known
    levels = np.clip((np.asarray(image, np.float32) - low) * (255 / (high - low)), 0, 255)
    image = Image.fromarray(np.rint(levels).astype(np.uint8))
image = np.asarray(image.convert("RGB"))
probabilities, distance = session.run(None, {"image": image})
classes = probabilities.argmax(0).astype(np.uint8)
Image.fromarray(classes).save(out)
for number, name in enumerate(json.loads(about["classes"])):
    print(f"{name}: {(classes == number).mean():.2%} of the picture")
