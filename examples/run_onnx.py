"""Run a decoder that `skylight export` wrote: python run_onnx.py decoder.onnx picture.png classes.png

Needs onnxruntime, numpy and pillow, nothing else. Writes the classes as gray levels: 0 background, k the k-th label.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, picture, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
image = np.asarray(Image.open(picture).convert("RGB"))
probabilities, distance = session.run(None, {"image": image})
classes = probabilities.argmax(0).astype(np.uint8)
Image.fromarray(classes).save(out)
for number, name in enumerate(json.loads(session.get_modelmeta().custom_metadata_map["classes"])):
    print(f"{name}: {(classes == number).mean():.2%} of the picture")
