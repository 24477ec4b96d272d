"""A stored model -> the same model for a runtime without TensorFlow, with everything beside it that its use needs.

`models/<training>/exports/<format>/` in the bucket: the model, preprocessing and calibration inside, and manifest.json
last. An export that does not give the stored model's probabilities on pictures of its own test set is refused.
"""

import hashlib
import importlib.util
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, MissingObjectError, get_verified
from lesion_tasks.catalog.entries import unknown
from lesion_tasks.scratch import scratch_file
from lesion_tasks.serving.served_model import ModelFile, ServedModel, load_served

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from lesion_tasks.metrics.conformal import ConformalSets

log = logging.getLogger(__name__)

N_PICTURES = 200  # of the test set, on which an export is held against the stored model
MOST_DIFFERENCE = 1e-4  # of any probability
BATCH_IMAGES = 50
OPSET = 18  # of ONNX; read by onnxruntime from 1.14 on
OUTPUT = "probabilities"

Inputs = Mapping[str, np.ndarray]


class ConformalFacts(BaseModel):
    """Which classes are possible: those whose 1 - p does not exceed their bound. Only one class is an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error_rate: float  # of each class, at most this share of new groups lacks it in its set
    bounds: dict[str, float | None]  # by class; None: always possible, where val had too few groups


class ExportManifest(BaseModel):
    """What stands beside an exported model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    file: str
    sha256: str
    training_id: str
    model_sha256: str  # of the stored model
    inputs: dict[str, str]  # by name: type, shape, and what it means
    output: str
    preprocessing: str  # what is left to do before the model sees a picture
    classes: list[str]
    threshold: float | None
    calibration: dict[str, Any] | None  # inside the model already; None: it is not calibrated
    conformal: ConformalFacts | None  # None: not measured
    n_compared: int  # pictures of the test set
    largest_difference: float  # of any probability from the stored model's
    training: dict[
        str, Any
    ]  # everything that the training says of itself: recipe, licences, weights, versions


@dataclass(frozen=True, kw_only=True)
class _Format:
    extra: str
    modules: tuple[str, ...]  # that the extra installs
    file: str
    convert: "Callable[[keras.Model], bytes]"
    run: Callable[
        [bytes, Inputs], np.ndarray
    ]  # probabilities as the model gives them, (n, 1) or (n, classes)


def export_model(
    bucket: Bucket, file: ModelFile, format_name: str, out: Path | None = None
) -> ExportManifest:
    """Convert a model, hold it against the stored one, and store it; with `out`, copy it to that folder too.

    Raises `UnusableInputError` if the extra is not installed, the test pictures are gone, or the export differs.
    """
    if format_name not in _FORMATS:
        raise UnusableInputError(unknown("format", format_name, list(_FORMATS)))
    form = _FORMATS[format_name]
    if missing := [name for name in form.modules if importlib.util.find_spec(name) is None]:
        raise UnusableInputError(
            f"export to {format_name}: {', '.join(missing)} not installed, expected the extra: "
            f"pip install 'lesion-tasks[{form.extra}]'"
        )
    served = load_served(bucket, file)
    inputs = _test_inputs(bucket, served)
    stored = np.asarray(
        served.model.predict(inputs, batch_size=BATCH_IMAGES, verbose=0)
    )  # before it is converted
    data = form.convert(served.model)
    difference = float(np.abs(form.run(data, inputs) - stored).max())
    n_compared = len(next(iter(inputs.values())))
    if not difference <= MOST_DIFFERENCE:  # nor if it is not a number
        raise UnusableInputError(
            f"export of {file.training_id} to {format_name}: its probabilities differ by up to {difference:.2g} from "
            f"those of the stored model on {n_compared} test pictures, expected at most {MOST_DIFFERENCE:g}"
        )
    manifest = _manifest(served, form, format_name, data, n_compared, difference)
    folder = f"models/{file.training_id}/exports/{format_name}"
    written = manifest.model_dump_json(indent=2).encode()
    bucket.put(f"{folder}/{form.file}", data)
    bucket.put(f"{folder}/manifest.json", written, content_type="application/json")
    log.info("%s/%s: differs by at most %.2g", bucket.url, folder, difference)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / form.file).write_bytes(data)
        (out / "manifest.json").write_bytes(written)
        card = f"reports/{file.training_id}/model_card.md"
        if bucket.exists(card):
            (out / "model_card.md").write_bytes(bucket.get(card))
    return manifest


def _manifest(
    served: ServedModel, form: _Format, format_name: str, data: bytes, n_compared: int, difference: float
) -> ExportManifest:
    size = served.input_size
    meanings = {
        "pixels": "RGB, 0 to 255",
        "metadata": f"{', '.join(served.metadata_fields)}; NaN where missing; is_male is 1 or 0",
    }
    is_binary = len(served.classes) == 2
    return ExportManifest(
        format=format_name,
        file=form.file,
        sha256=hashlib.sha256(data).hexdigest(),
        training_id=served.training_id,
        model_sha256=served.file.model_sha256,
        inputs={
            tensor.name: f"float32 ({', '.join(str(n or 'n') for n in tensor.shape)}): {meanings[tensor.name]}"
            for tensor in served.model.inputs
        },
        output=f"{OUTPUT}: float32 "
        + (f"(n, 1), P({served.classes[1]})" if is_binary else f"(n, {len(served.classes)}), by class"),
        preprocessing="none: the model sees no pictures"
        if size is None
        else f"upright, 8-bit RGB, to {size.side_px} x {size.side_px} px ({size.aspect}) by antialiased bilinear "
        "resampling, as Pillow's Resampling.BILINEAR; everything after that is inside",
        classes=list(served.classes),
        threshold=served.threshold,
        calibration=served.manifest.get("calibration"),
        conformal=None if served.doubt is None else _conformal(served.doubt.sets),
        n_compared=n_compared,
        largest_difference=difference,
        training=dict(served.manifest),
    )


def _conformal(sets: "ConformalSets") -> ConformalFacts:
    named = zip(sets.class_names, sets.bounds, strict=True)
    return ConformalFacts(
        error_rate=sets.error_rate,
        bounds={name: bound if math.isfinite(bound) else None for name, bound in named},
    )


def _test_inputs(bucket: Bucket, served: ServedModel) -> dict[str, np.ndarray]:
    """The inputs of up to N_PICTURES images of the test set, evenly drawn by id."""
    from lesion_tasks.pixels.decode import decode_picture
    from lesion_tasks.training.examples import metadata_matrix

    rows = _test_rows(bucket, served)
    inputs: dict[str, np.ndarray] = {}
    for tensor in served.model.inputs:
        if tensor.name == "metadata":
            inputs["metadata"] = metadata_matrix(rows, served.metadata_fields)
        elif (size := served.input_size) is not None:
            found = [
                decode_picture(get_verified(bucket, key, sha256, kind="picture"), size)
                for key, sha256 in zip(rows["object_key"], rows["sha256"], strict=True)
            ]
            inputs["pixels"] = np.stack(found).astype(np.float32)
    return inputs


def _test_rows(bucket: Bucket, served: ServedModel) -> "pd.DataFrame":
    from lesion_tasks.splits.manifest import object_key, read_manifest

    key = object_key(served.manifest["variant"]["split"], served.manifest["manifest_digest"])
    try:
        rows = read_manifest(bucket, key)
    except MissingObjectError as error:
        raise UnusableInputError(
            f"model {served.training_id}: its manifest {key} is gone, expected its test set to hold an export against"
        ) from error
    test = rows[rows["subset"] == "test"].sort_values("isic_id")
    if test.empty:
        raise UnusableInputError(
            f"model {served.training_id}: its manifest {key} has no test set, expected one"
        )
    chosen = np.unique(np.linspace(0, len(test) - 1, min(N_PICTURES, len(test))).round().astype(int))
    return test.iloc[chosen]


def _batches(inputs: Inputs) -> list[dict[str, np.ndarray]]:
    n = len(next(iter(inputs.values())))
    return [
        {name: values[start : start + BATCH_IMAGES] for name, values in inputs.items()}
        for start in range(0, n, BATCH_IMAGES)
    ]


def _to_onnx(model: "keras.Model") -> bytes:
    import tf2onnx

    from lesion_tasks.evaluation.inference_graph import as_function

    serve = as_function(model, lambda found: {OUTPUT: found})
    proto, _ = tf2onnx.convert.from_function(
        serve,
        input_signature=serve.input_signature,
        opset=OPSET,
        custom_op_handlers={"Log1p": (_log1p, []), "Erfc": (_erfc, [])},
    )
    return bytes(proto.SerializeToString())


def _log1p(graph: Any, node: Any, name: str, args: Any) -> Any:
    """ONNX has no log(1 + x); the argument here is a probability kept away from 1, so nothing is lost by adding."""
    one = graph.make_const(f"{name}_one", np.array(1, dtype=np.float32)).output[0]
    added = graph.make_node("Add", [node.input[0], one]).output[0]
    node.type = "Log"
    graph.replace_inputs(node, [added])
    return node


def _erfc(graph: Any, node: Any, name: str, args: Any) -> Any:
    """ONNX has no erfc(x) = 1 - erf(x), which TensorFlow's GELU is made of."""
    one = graph.make_const(f"{name}_one", np.array(1, dtype=np.float32)).output[0]
    erf = graph.make_node("Erf", [node.input[0]]).output[0]
    node.type = "Sub"
    graph.replace_inputs(node, [one, erf])
    return node


def _run_onnx(data: bytes, inputs: Inputs) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([OUTPUT], batch)[0] for batch in _batches(inputs)])


def _to_litert(model: "keras.Model") -> bytes:
    import keras
    import tensorflow as tf

    names = [tensor.name for tensor in model.inputs]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda *values: {OUTPUT: model(dict(zip(names, values, strict=True)), training=False)},
        input_signature=[
            tf.TensorSpec(tensor.shape, tf.float32, name=tensor.name) for tensor in model.inputs
        ],
    )
    with scratch_file("saved_model") as folder:
        archive.write_out(str(folder), verbose=False)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())


def _run_litert(data: bytes, inputs: Inputs) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=data).get_signature_runner()
    return np.concatenate([run(**batch)[OUTPUT].copy() for batch in _batches(inputs)])


_FORMATS = {
    "onnx": _Format(
        extra="onnx",
        modules=("tf2onnx", "onnxruntime"),
        file="model.onnx",
        convert=_to_onnx,
        run=_run_onnx,
    ),
    "litert": _Format(
        extra="litert",
        modules=("ai_edge_litert",),
        file="model.tflite",
        convert=_to_litert,
        run=_run_litert,
    ),
}
