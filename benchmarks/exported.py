"""An exported model where TensorFlow is not installed, and pictures -> its probabilities against those of a job.

    lesion predict FOLDER --out predicted
    lesion export --format onnx --out exported
    python -m venv clean && clean/bin/pip install onnxruntime numpy pillow      # or ai-edge-litert
    clean/bin/python benchmarks/exported.py exported FOLDER predicted/predictions.csv

Needs the manifest that lies beside the model, NumPy, Pillow and the runtime; nothing else, and nothing of this project.
The exit status is 1 if a probability differs by more than 0.0001. Metadata are missing to the model.
"""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MOST_DIFFERENCE = 1e-4
BATCH_IMAGES = 50


def squared(path: Path, variant: dict[str, Any]) -> np.ndarray:
    """A picture as the manifest's `preprocessing` says: float32 (side, side, 3)."""
    shape = (variant["side_px"], variant["side_px"])
    with Image.open(path) as opened:
        whole = ImageOps.exif_transpose(opened).convert("RGB")
    if variant.get("aspect") == "pad":
        whole = ImageOps.pad(whole, shape, Image.Resampling.BILINEAR, color="black")
    elif variant.get("aspect") == "crop":
        whole = ImageOps.fit(whole, shape, Image.Resampling.BILINEAR)
    else:
        whole = whole.resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(whole, dtype=np.float32)


def run(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities, (n, 1) or (n, classes)."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, inputs)[0])
    from ai_edge_litert.interpreter import Interpreter

    (found,) = Interpreter(model_path=str(path)).get_signature_runner()(**inputs).values()
    return np.array(found)


def main(exported: Path, folder: Path, table: Path) -> int:
    """Print the largest difference; returns the exit status."""
    loaded = [name for name in ("tensorflow", "keras", "lesion_tasks") if importlib.util.find_spec(name)]
    print(f"of TensorFlow, Keras and this project there is here: {', '.join(loaded) or 'nothing'}")
    manifest = json.loads((exported / "manifest.json").read_text())
    variant, classes = manifest["training"]["variant"], manifest["classes"]
    with table.open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if not row["reason"]]
    largest = 0.0
    for start in range(0, len(rows), BATCH_IMAGES):
        batch = rows[start : start + BATCH_IMAGES]
        inputs: dict[str, np.ndarray] = {}
        if "pixels" in manifest["inputs"]:
            inputs["pixels"] = np.stack([squared(folder / row["image"], variant) for row in batch])
        if "metadata" in manifest["inputs"]:
            inputs["metadata"] = np.full((len(batch), len(variant["metadata"])), np.nan, np.float32)
        found = run(exported / manifest["file"], inputs)
        found = np.column_stack([1 - found[:, 0], found[:, 0]]) if len(classes) == 2 else found
        said = np.array([[float(row[f"p_{name}"]) for name in classes] for row in batch])
        largest = max(largest, float(np.abs(found - said).max()))
    print(f"{manifest['file']}, {len(rows):,} pictures: differs by at most {largest:.2g}")
    return int(not largest <= MOST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main(*(Path(name) for name in sys.argv[1:4])))
