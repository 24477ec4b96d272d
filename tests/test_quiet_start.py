"""TensorFlow's start: its notes are left out, and whatever else it says is passed on."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = """
from lesion_tasks.training.quiet_start import import_tensorflow
import_tensorflow()
import keras, numpy as np
model = keras.Sequential([keras.layers.Dense(2)])
model.predict(np.zeros((2, 3)), verbose=0)
"""


def said(script: str, *path: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return done.stderr


def test_a_model_answers_without_a_word_on_standard_error() -> None:
    assert said(SCRIPT) == ""


def test_what_is_not_a_note_of_the_start_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 oneDNN custom operations are on.\\nE0000 the device is on fire\\n')\n"
    )
    script = "from lesion_tasks.training.quiet_start import import_tensorflow; import_tensorflow()"
    assert said(script, str(tmp_path)) == "E0000 the device is on fire\n"
