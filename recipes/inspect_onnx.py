"""Inspect a folder with a file that adlib.export wrote; needs numpy, pillow and onnxruntime, and no torch.

    python recipes/inspect_onnx.py parts.onnx parts/new 0.05 > answers.csv
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description="Inspect a folder of pictures; the answers are CSV.")
parser.add_argument("file", help="what adlib export wrote, such as parts.onnx")
parser.add_argument("folder", type=Path, help="the pictures, such as parts/new")
parser.add_argument("alpha", type=float, help="the share of good parts that may be called defective, such as 0.05")
asked = parser.parse_args()
if not Path(asked.file).is_file():
    parser.error(f"{asked.file}: no such file")
try:
    session = onnxruntime.InferenceSession(asked.file, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["adlib"])
except Exception as error:  # whatever another file provokes
    parser.error(f"{asked.file}: is no file that adlib export wrote: {type(error).__name__}: {error}")
if not about["held_out"]:
    parser.error(f"{asked.file}: has no held-out parts; fit with some held out, and export again")
if about["format"] > 2:
    parser.error(f"{asked.file}: was written by a newer adlib; take the recipe of that version")
least = 1 / (about["held_out"] + 1)
if not least - 1e-9 <= asked.alpha < 1:
    parser.error(f"alpha = {asked.alpha}: expected a share from {least:.3g}, which is the least that the "
                 f"{about['held_out']} held-out parts can promise, to below 1")
if not asked.folder.is_dir():
    parser.error(f"{asked.folder}: no such folder")


def read(path):
    """The image (1, H, W, 3) as the file wants it, held to what its reading contract asks."""
    picture = ImageOps.exif_transpose(Image.open(path))
    deep = picture.mode[0] in "IF"  # grey, with more than 8 bits
    values = np.asarray(picture if deep else picture.convert("RGB"))
    values = (np.stack([values] * 3, 2) if deep else values)[None]
    (_, height, width, _), (low, high) = values.shape, about["aspects"]
    if values.dtype != about["type"] or not about["least_maximum"] <= values.max() <= about["max_value"]:
        raise ValueError(f"{values.dtype} up to {values.max()}, expected {about['type']} up to {about['max_value']:g}")
    if not low <= height / width <= high or height * width < about["least_pixels"]:
        raise ValueError(f"{height} × {width} pixels, expected the shape and size of the training images")
    if (about.get("own_size") or [height, width]) != [height, width]:
        raise ValueError(f"{height} × {width} pixels, expected {about['own_size']}, height and width")
    h, w = about.get("frame") or (height, width)
    if abs(h * width - w * height) > max(h + w, height + width) / 2:
        raise ValueError(f"{height} × {width} pixels, expected the shape of the region's frame, {h} × {w}")
    return values


sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be Unicode
table = csv.writer(sys.stdout)
table.writerow(["image", "score", "p_value", "answer"])
for path in sorted(path for path in asked.folder.rglob("*") if path.is_file()):
    name = f"./{path}" if str(path)[0] in "=+-@\t\r" else path  # no formula for a spreadsheet
    try:
        score, p_value = session.run(["scores", "p_values"], {"images": read(path)})
        table.writerow([name, score[0], p_value[0], "defective" if p_value[0] <= asked.alpha else "good"])
    except Exception as error:  # one picture must not stop the others
        table.writerow([name, "", "", f"not inspected: {error}"])
