"""A preset of KerasHub is a backbone: frozen and fine-tuned, stored with its scaling, opened elsewhere in safe mode."""

import ast
import http.server
import importlib
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from catalogue import declare, rows_of

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import DirectoryBucket, open_bucket
from lesion_tasks.catalog import VARIANTS, Variant
from lesion_tasks.catalog.backbones import STORED_BACKBONES, PresetBackbone
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.pixels.shards import open_shard
from lesion_tasks.settings import Settings
from lesion_tasks.training.frozen_features import feature_recipe, recipe_id
from lesion_tasks.training.loop import load_model, model_bytes
from lesion_tasks.training.model import backbone_of, build_extractor, build_model, find_weights, set_trainable
from lesion_tasks.training.model.weights import load_base
from lesion_tasks.training.train import train_variant
from lesion_tasks.workspace import open_workspace

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).parent.parent
SIDE_PX = 32
SCALE, OFFSET = [0.017, 0.0175, 0.0174], [-2.1, -2.0, -1.8]
DINO = PresetBackbone(name="dino", preset="dinov2_tiny", licence="Apache-2.0")
SIGLIP = PresetBackbone(name="siglip", preset="siglip2_tiny")  # its licence lies beside it


@pytest.fixture(scope="module")
def keras_hub() -> Any:
    """Imported when a test needs it: whoever only collects tests need not have it."""
    return importlib.import_module("keras_hub")


@pytest.fixture
def constants() -> Any:
    """Those of the client of Hugging Face."""
    return importlib.import_module("huggingface_hub.constants")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, keras_hub: Any) -> Path:
    """Presets with random weights, as KerasHub writes them: a DINOv2, and a SigLIP2 with a tower for text."""
    where = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(3)
    blocks: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    dino = keras_hub.models.DINOV2Backbone(
        patch_size=8,
        position_embedding_shape=(48, 48),
        num_register_tokens=2,
        image_shape=(48, 48, 3),
        **blocks,
    )
    dino.save_to_preset(where / DINO.preset)
    keras_hub.layers.DINOV2ImageConverter(image_size=(48, 48), scale=SCALE, offset=OFFSET).save_to_preset(
        where / DINO.preset
    )
    towers = keras_hub.models.SigLIPBackbone(
        keras_hub.models.SigLIPVisionEncoder(patch_size=8, image_shape=(SIDE_PX, SIDE_PX, 3), **blocks),
        keras_hub.models.SigLIPTextEncoder(vocabulary_size=20, embedding_dim=16, **blocks),
    )
    towers.save_to_preset(where / SIGLIP.preset)
    keras_hub.layers.SigLIPImageConverter(scale=1 / 127.5, offset=-1).save_to_preset(where / SIGLIP.preset)
    (where / f"{SIGLIP.preset}.licence.txt").write_text("Apache-2.0\n")
    return where


@pytest.fixture
def weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same among the weights and in the catalogue."""
    monkeypatch.setenv("LESION_WEIGHTS", str(folder))
    for backbone in (DINO, SIGLIP):
        monkeypatch.setitem(STORED_BACKBONES, backbone.name, backbone)
    return folder


def variant(backbone: str = "dino", **changed: object) -> Variant:
    return replace(
        VARIANTS["efficientnet_lite0_frozen"],
        **{"name": "tried", "side_px": SIDE_PX, "backbone": backbone, **changed},  # type: ignore[arg-type]
    )


def pictures(n: int = 3, side_px: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, side_px, side_px, 3)).astype(np.uint8)


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UnusableInputError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


ELSEWHERE = """
import sys
from pathlib import Path
import keras, numpy as np
from lesion_tasks.training.loop import load_model, model_bytes

load_model(model_bytes(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])))
assert "keras_hub" not in sys.modules, "imported for a model that does not need it"
load_model(Path(sys.argv[1]).read_bytes())

# What anybody does who is given the files.
import keras_hub
for path in sys.argv[1:]:
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    np.save(path + ".npy", model.predict({"pixels": np.load(path + ".pixels.npy")}, verbose=0))
"""


def test_presets_learn_and_what_is_stored_says_the_same_elsewhere(
    small: Settings, weights: Path, tmp_path: Path, keras_hub: Any
) -> None:
    pixels = {
        isic_id: open_shard(open_bucket(small), key, sha256)[index]
        for key, index, sha256, isic_id in rows_of(
            small,
            "SELECT object_key, row_index, s.sha256, isic_id FROM pixel_row p "
            "JOIN pixel_shard s USING (object_key) JOIN image i ON i.sha256 = p.sha256",
        )
    }
    measured = {}
    for backbone, tuned in (
        ("dino", {"is_backbone_frozen": False, "unfrozen_from": None}),
        ("siglip", {"unfrozen_from": "encoder_block_1"}),
    ):
        how: dict[str, Any] = {"backbone": backbone, "is_pretrained": True, "max_epochs": 1}
        names = (
            declare("efficientnet_lite0_frozen", **how),
            declare("efficientnet_lite0_top_tuned", **how, **tuned),
        )
        some = VARIANTS[names[0]]
        before = load_base(some, find_weights(some, str(weights))).get_weights()
        for name in names:
            training_id = train_variant(open_workspace(), name)
            where = f"WHERE training_id = '{training_id}'"
            ((row,),) = rows_of(small, f"SELECT to_jsonb(t) FROM training t {where}")
            assert row["weights"].endswith("_tiny (Apache-2.0)")
            assert row["versions"]["keras-hub"] == keras_hub.__version__
            data = open_bucket(small).get(row["model_key"])
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                assert json.loads(archive.read("lesion.json"))["weights_licence"] == "Apache-2.0"
            after = backbone_of(load_model(data)).get_weights()
            assert all(map(np.array_equal, before, after)) is (name == names[0])
            path = tmp_path / f"{training_id}.keras"
            path.write_bytes(data)
            said = rows_of(
                small, f"SELECT isic_id, probabilities FROM prediction {where} AND subset = 'test'"
            )
            np.save(f"{path}.pixels.npy", np.stack([pixels[isic_id] for isic_id, _ in said]))
            measured[path] = [p[1] for _, p in said]
    assert rows_of(small, "SELECT n_features FROM feature_shard") == [(16,)] * 2, "by the frozen ones alone"
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *measured], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for path, expected in measured.items():
        np.testing.assert_allclose(np.load(f"{path}.npy")[:, 0], expected, atol=1e-5)


def test_pixels_are_scaled_as_the_preset_does_and_one_vector_is_what_its_network_says(
    weights: Path, keras_hub: Any
) -> None:
    hub = keras_hub.models.Backbone
    dino = hub.from_preset(str(weights / DINO.preset), image_shape=(SIDE_PX, SIDE_PX, 3))
    tower = hub.from_preset(str(weights / SIGLIP.preset)).vision_encoder
    pixels = pictures()
    scaled = pixels.astype(np.float32) * SCALE + OFFSET
    expected = {
        "dino": dino({"images": scaled})[:, 0],  # the class token, before two registers and the patches
        "siglip": tower({"images": pixels / np.float32(127.5) - 1}),
    }
    for name, said in expected.items():
        extractor = build_extractor(variant(name), find_weights(variant(name), str(weights)))
        np.testing.assert_allclose(np.asarray(extractor({"pixels": pixels})), np.asarray(said), atol=1e-5)


@pytest.mark.parametrize("has_class_token", [True, False])
def test_without_a_class_token_it_is_the_mean_over_the_patches(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, keras_hub: Any, has_class_token: bool
) -> None:
    vit = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8,
        use_class_token=has_class_token,
    )  # fmt: skip
    vit.save_to_preset(tmp_path / "vit")
    keras_hub.layers.ViTImageConverter().save_to_preset(tmp_path / "vit")
    monkeypatch.setitem(STORED_BACKBONES, "vit", PresetBackbone(name="vit", preset="vit", licence="MIT"))
    some = variant("vit", side_px=16)
    tokens = np.asarray(vit(pictures(side_px=16).astype(np.float32)))
    found = build_extractor(some, find_weights(some, str(tmp_path)))({"pixels": pictures(side_px=16)})
    expected = tokens[:, 0] if has_class_token else tokens.mean(axis=1)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)
    other = variant("vit", side_px=32)
    assert "preset vit: made for 16 x 16 px, at 32 px it cannot be opened as KerasHub's: " in refusal(
        build_model, other, find_weights(other, str(tmp_path))
    )


def test_positions_that_learned_are_stored_whichever_way_they_went(weights: Path) -> None:
    """KerasHub 0.32 itself drops what made their sum larger, and stores them blurred at another size than its own."""
    model = build_model(variant(side_px=16), find_weights(variant(), str(weights)))
    positions = backbone_of(model).embeddings.interpolated_position_embeddings
    for step in (0.25, -0.5, np.nan):
        moved = (
            np.asarray(positions)
            + step * pictures(1, 16).ravel()[: np.asarray(positions).size].reshape(positions.shape) / 255
        )
        positions.assign(moved)
        stored = backbone_of(load_model(model_bytes(model))).embeddings.interpolated_position_embeddings
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(positions))


def test_a_model_whose_layers_do_not_store_their_weights_is_not_stored(weights: Path, keras_hub: Any) -> None:
    dino = keras_hub.models.Backbone.from_preset(
        str(weights / DINO.preset), image_shape=(SIDE_PX, SIDE_PX, 3)
    )
    positions = dino.embeddings.interpolated_position_embeddings
    positions.assign(np.asarray(positions) + pictures(1).ravel()[: 17 * 16].reshape(positions.shape))
    assert "interpolated_position_embeddings is another in the file" in refusal(model_bytes, dino)


LAYERS = {
    "dino": ("embeddings", "layers_0", "layers_1", "layernorm"),
    "siglip": ("embedding", "encoder_block_0", "encoder_block_1", "post_layer_norm", "head"),
}


@pytest.mark.parametrize(
    ("backbone", "starts"),
    [
        ("dino", {"": 0, "encoder": 1, "layers_1": 2, "layernorm": 3}),
        ("siglip", {"": 0, "encoder_block_1": 2, "head": 4}),
    ],
)
def test_lower_blocks_are_frozen_by_name_also_inside_of_an_encoder(
    weights: Path, backbone: str, starts: dict[str, int]
) -> None:
    base = load_base(variant(backbone), find_weights(variant(backbone), str(weights)))
    by_name = {layer.name.removeprefix(f"{base.name}_"): layer for layer in base._flatten_layers()}
    for start, n_frozen in starts.items():
        set_trainable(base, start, has_frozen_statistics=True)
        learning = [bool(by_name[name].trainable_variables) for name in LAYERS[backbone]]
        assert learning == [number >= n_frozen for number in range(len(learning))], start
    said = refusal(lambda: set_trainable(base, "block_9", has_frozen_statistics=True))
    assert "no layer whose name starts with 'block_9'; its last: " in said
    assert LAYERS[backbone][2] in said


def test_batch_norm_is_frozen_inside_layers_too(weights: Path) -> None:
    class Block(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x: Any) -> Any:
            return self.norm(x)

    pixels = keras.Input((4, 4, 3))
    base = keras.Model(pixels, Block()(pixels))
    set_trainable(base, "", has_frozen_statistics=True)
    assert base.trainable_variables == []


def test_another_file_or_name_in_the_folder_is_another_training(weights: Path, tmp_path: Path) -> None:
    found = {}
    for change in ("none", "bytes", "name", "hidden"):
        copy = tmp_path / change
        shutil.copytree(weights / DINO.preset, copy / DINO.preset)
        metadata = copy / DINO.preset / "metadata.json"
        if change == "bytes":
            metadata.write_text("{}")
        elif change == "name":
            metadata.rename(metadata.with_name("meta.json"))
        elif change == "hidden":
            metadata.with_name(".DS_Store").write_text("")
        some = find_weights(variant(), str(copy))
        found[change] = recipe_id(feature_recipe(variant(), some, None))
    assert len(set(found.values())) == 3
    assert found["none"] == found["hidden"]
    for shard in (".hidden.h5", "../elsewhere.h5"):
        (copy / DINO.preset / "model.weights.json").write_text(json.dumps({"weight_map": {"/a": [shard]}}))
        assert f"its model.weights.json names {shard!r}, which is none of its files" in refusal(
            find_weights, variant(), str(copy)
        )
    random = variant(is_pretrained=False)
    assert recipe_id(feature_recipe(random, find_weights(random, str(weights)), None)) not in found.values()
    kernels = [
        np.asarray(load_base(v, find_weights(v, str(weights))).weights[0]) for v in (variant(), random)
    ]
    assert not np.array_equal(*kernels)


def test_a_preset_is_found_by_its_own_path_and_in_the_bucket(weights: Path, tmp_path: Path) -> None:
    bucket = DirectoryBucket(tmp_path)
    for file in weights.rglob("*.*"):
        bucket.put(f"weights/{file.relative_to(weights).as_posix()}", file.read_bytes())
    for name, preset in (("dino", DINO.preset), ("siglip", SIGLIP.preset)):
        expected = find_weights(variant(name), str(weights))
        assert expected is not None
        assert expected.licence == "Apache-2.0"
        for location in (str(weights / preset), "bucket:weights", f"bucket:weights/{preset}"):
            found = find_weights(variant(name), location, bucket)
            assert found is not None
            assert (found.sha256, found.described) == (expected.sha256, f"{preset} (Apache-2.0)")
    by_path = replace(DINO, preset=str(weights / DINO.preset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STORED_BACKBONES, "dino", by_path)
        found = find_weights(variant(), "imagenet")
    assert found is not None
    assert found.path == weights / DINO.preset
    assert found.described == "dinov2_tiny (Apache-2.0)", "where it lies here is nobody else's business"


class Remote(DirectoryBucket):
    """As one in S3: objects are read from copies, which stay, and folders that people make are objects."""

    is_local = False

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        yield prefix
        yield from super().list_keys(prefix)

    def local_path(self, key: str) -> Path:
        copy = self.root.with_name("cache") / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(super().local_path(key).read_bytes())
        return copy


def test_what_was_once_in_the_bucket_is_no_part_of_a_preset(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights / DINO.preset, tmp_path / "bucket" / "weights" / DINO.preset)
    bucket = Remote(tmp_path / "bucket")
    expected = find_weights(variant(), str(weights))
    bucket.put(f"weights/{DINO.preset}/old.json", b"{}")
    before = find_weights(variant(), "bucket:weights", bucket)
    bucket.delete(f"weights/{DINO.preset}/old.json")
    for location in ("bucket:weights", f"bucket:weights/{DINO.preset}"):
        found = find_weights(variant(), location, bucket)
        assert expected is not None and before is not None and found is not None
        assert before.sha256 != found.sha256 == expected.sha256
        assert found.path is not None
        assert {path.name for path in found.path.iterdir()} == {
            path.name for path in (weights / DINO.preset).iterdir()
        }
    assert load_base(variant(), found).count_params() == load_base(variant(), expected).count_params()
    (bucket.root / "weights" / DINO.preset / "my notes.txt").write_text("")
    said = refusal(find_weights, variant(), "bucket:weights", bucket)
    assert f"LESION_WEIGHTS bucket:weights: 'weights/{DINO.preset}/my notes.txt' is not an object key" in said


@pytest.mark.parametrize("location", ["none", "imagenet", "/nowhere", "bucket:weights"])
def test_a_missing_folder_is_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.chdir(weights)
    said = refusal(find_weights, variant(), location, DirectoryBucket(tmp_path))
    assert f"LESION_WEIGHTS {location}: found " in said
    assert "expected a folder dinov2_tiny in it" in said


def test_without_a_licence_nobody_uses_the_weights(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORED_BACKBONES, "dino", replace(DINO, licence=""))
    assert refusal(find_weights, variant(), str(weights)) == (
        "variant 'tried': preset dinov2_tiny: under which licence may its weights be used? Nothing states it; expected "
        "`licence` in [backbone.dino] or a file dinov2_tiny.licence.txt beside its folder"
    )


def test_a_folder_that_is_no_preset_or_carries_code_is_refused(
    weights: Path, tmp_path: Path, keras_hub: Any
) -> None:
    def said(side_px: int = SIDE_PX, backbone: PresetBackbone = DINO, **changed: str | None) -> str:
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(weights, copy)
        for name, content in changed.items():
            path = copy / backbone.preset / f"{name}.json"
            path.unlink() if content is None else path.write_text(content)
        some = variant(backbone.name, side_px=side_px)
        return refusal(build_model, some, find_weights(some, str(copy)))

    assert "has no image_converter.json, which says how pixels are scaled" in said(image_converter=None)
    assert (
        "cuts pictures into patches of 8 px, which do not fill 36 px; expected a multiple, such as 40"
        in said(36)
    )
    for foreign in ("no JSON", '{"model_type": "siglip", "vision_config": {}}', "[]"):
        assert "preset dinov2_tiny: its config.json is not one that `save_to_preset` writes" in said(
            config=foreign
        )
    pixels = keras.Input((SIDE_PX, SIDE_PX, 3))
    of_code = keras.layers.Lambda(lambda x: x[:, ::8])
    code = keras.saving.serialize_keras_object(keras.Model(pixels, of_code(pixels)))
    towers = json.loads((weights / SIGLIP.preset / "config.json").read_text())
    towers["config"]["vision_encoder"] = code
    assert "`Lambda`" in said(backbone=SIGLIP, config=json.dumps(towers))
    for other in (of_code, keras.layers.Rescaling(1.0)):
        assert (
            f"its image_converter.json is of a {type(other).__name__}, expected an image converter of KerasHub"
            in said(image_converter=json.dumps(keras.saving.serialize_keras_object(other)))
        )
    converter = json.loads((weights / DINO.preset / "image_converter.json").read_text())
    converter["config"]["scale"] = [1, 2]
    assert "expected a number or one of each channel" in said(image_converter=json.dumps(converter))
    bert = keras_hub.models.BertBackbone(
        vocabulary_size=9, num_layers=1, num_heads=1, hidden_dim=8, intermediate_dim=8
    )
    bert.save_to_preset(tmp_path / "text" / DINO.preset)
    assert "expected pictures (None, h, w, 3) in" in refusal(
        build_model, variant(), find_weights(variant(), str(tmp_path / "text"))
    )
    other = variant("siglip", side_px=64)
    assert "preset siglip2_tiny: takes pictures of 32 x 32 px alone, and the variant's have 64 px" in refusal(
        build_model, other, find_weights(other, str(weights))
    )


def test_a_smoke_run_keeps_the_side_that_the_network_takes() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STORED_BACKBONES, "siglip", SIGLIP)
        assert adjust(variant("siglip", side_px=224), is_smoke_run=True).side_px == 224
    assert adjust(variant("efficientnet_lite0", side_px=224), is_smoke_run=True).side_px == 32


COMMIT = "a" * 40
NAMES = {
    "medsiglip_900m_448": "kaggle://keras/medsiglip/keras/medsiglip_900m_448/1",
    "dinov3_vit_small_lvd1689m": "kaggle://keras/dinov3/keras/dinov3_vit_small_lvd1689m/1",
    f"hf://google/medsiglip-448@{COMMIT}": f"hf://google/medsiglip-448@{COMMIT}",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_without_a_network_is_one_line_and_its_licence_is_asked_first(
    monkeypatch: pytest.MonkeyPatch, constants: Any, name: str
) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    entry = PresetBackbone(name="named", preset=name)
    monkeypatch.setitem(STORED_BACKBONES, "named", entry)
    assert refusal(find_weights, variant("named"), "imagenet") == (
        f"variant 'tried': preset {name}: under which licence may its weights be used? Nothing states it; expected "
        "`licence` in [backbone.named]"
    )
    monkeypatch.setitem(STORED_BACKBONES, "named", replace(entry, licence="Terms of its own"))
    assert refusal(find_weights, variant("named"), "imagenet") == (
        f"variant 'tried': preset {name}: cannot be fetched from {NAMES[name]}: no network from here; where it has "
        "terms, they also have to be accepted there first; or name its folder among the weights (LESION_WEIGHTS) as "
        "`preset`"
    )


def test_what_may_change_under_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one name that KerasHub 0.32 has for a network of pictures without a version."""
    entry = PresetBackbone(name="named", preset="basnet_duts", licence="Apache-2.0")
    monkeypatch.setitem(STORED_BACKBONES, "named", entry)
    assert refusal(find_weights, variant("named"), "imagenet") == (
        "variant 'tried': preset basnet_duts: KerasHub has it at kaggle://keras/basnet/keras/basnet_duts, which names "
        "no version; expected hf://OWNER/NAME@COMMIT with the 40 digits of a commit, or "
        "kaggle://OWNER/MODEL/keras/VARIATION/VERSION"
    )


def test_two_who_want_the_same_version_from_kaggle_fetch_it_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path
) -> None:
    inside: list[int] = []
    most = []

    def download(handle: str) -> str:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return str(weights / DINO.preset)

    monkeypatch.setattr("kagglehub.model_download", download)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(
        STORED_BACKBONES, "dino", replace(DINO, preset="kaggle://keras/dinov2/keras/dinov2_tiny/1")
    )
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: find_weights(variant(), "imagenet"), range(3)))
    assert most == [1, 1, 1]
    assert all(one and one.path == weights / DINO.preset for one in found)


@contextmanager
def hub(folder: Path, status: int) -> Iterator[tuple[str, set[str]]]:
    """The part of Hugging Face's API that a download asks, over a folder at one commit.

    Gives its address, and the names of files that were fetched.
    """
    fetched = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if status != 200:
                self.answer(b"", status, {"X-Error-Code": "GatedRepo"})
            elif COMMIT not in parts:
                self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
            elif parts[0] == "api":
                said = [
                    {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
                    for path in sorted(folder.iterdir())
                ]
                self.answer(json.dumps(said).encode(), 200, {"Content-Type": "application/json"})
            else:
                fetched.add(parts[-1])
                self.answer((folder / parts[-1]).read_bytes(), 200, {"ETag": f'"{parts[-1]}"'})

        do_HEAD = do_GET  # noqa: N815 - its name in http.server

        def answer(self, content: bytes, code: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in {
                **headers,
                "X-Repo-Commit": COMMIT,
                "Content-Length": str(len(content)),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [200, 403, None])
def test_a_preset_by_address_is_fetched_once_or_its_terms_are_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constants: Any, status: int | None
) -> None:
    monkeypatch.setitem(STORED_BACKBONES, "dino", replace(DINO, preset=f"hf://ours/dino@{COMMIT}"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    shared = tmp_path / "shared"
    shutil.copytree(weights / DINO.preset, shared)
    if status is None:
        (shared / "config.json").write_text('{"model_type": "siglip"}')
    with hub(shared, status or 200) as (address, fetched):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        files = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        if status != 200:
            said = refusal(find_weights, variant(), "imagenet")
            expected = (
                f"cannot be fetched from hf://ours/dino@{COMMIT}: access is refused (403): there is none, or its terms"
                if status
                else f"preset hf://ours/dino@{COMMIT}: its config.json is not one that `save_to_preset` writes"
            )
            assert expected in said
            assert fetched == (set() if status else {"config.json"}), "and no gigabytes"
            return
        found = find_weights(variant(), "imagenet")
    assert found is not None
    assert found.described == f"hf://ours/dino@{COMMIT} (Apache-2.0)"
    assert find_weights(variant(), "imagenet") == found, "the server is gone: from the cache"
    extractors = [
        build_extractor(variant(), found),
        build_extractor(variant(), replace(found, path=weights / DINO.preset)),
    ]
    np.testing.assert_array_equal(*(np.asarray(one({"pixels": pictures()})) for one in extractors))


def test_where_kerashub_is_not_installed_its_extra_is_named(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = model_bytes(build_model(variant(), find_weights(variant(), str(weights))))
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    expected = (
        "needs KerasHub, which is not installed: expected the extra lesion-tasks[kerashub], as "
        "requirements/kerashub.lock has it"
    )
    assert refusal(load_model, stored) == f"a stored model {expected}"
    assert refusal(find_weights, variant(), str(weights)) == f"variant 'tried': preset dinov2_tiny {expected}"
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert load_model(model_bytes(plain)).count_params() == 3


def test_stored_models_are_opened_and_kerashub_is_imported_in_one_place() -> None:
    found = set()
    for path in (ROOT / "lesion_tasks").rglob("*.py"):
        source = path.read_text()
        is_concerned = "keras_hub" in source or "load_model" in source
        for node in ast.walk(ast.parse(source)) if is_concerned else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                (".saving.load_model", ".models.load_model")
            ):
                found.add(("open", path.name))
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "keras_hub" for name in names):
                found.add(("import", path.name))
    assert found == {("open", "kerashub.py"), ("import", "kerashub.py")}
