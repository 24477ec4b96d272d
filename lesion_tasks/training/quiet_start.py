"""TensorFlow without its start-up notes: they come before it heeds a log level, and Airflow shows them as errors."""

import os
import sys
import tempfile

# What the libraries of TensorFlow 2.21 write to standard error when they are loaded; anything else is passed on.
NOTES = (
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"This TensorFlow binary is optimized",
    b"To enable the following instructions",
    b"Could not find cuda drivers",
)


def import_tensorflow() -> None:
    """Load TensorFlow, the back end of Keras unless KERAS_BACKEND names another; the first call costs seconds."""
    if "tensorflow" in sys.modules or os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(standard_error, 2)
            kept.seek(0)
            for line in kept:
                if not any(note in line for note in NOTES):
                    os.write(2, line)
            os.close(standard_error)
