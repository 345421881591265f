"""What a training worker imports, and what it does not."""

import subprocess
import sys

IMPORTS = """
import sys
from clray.train import engine
engine._deepspeed()
assert "deepspeed" in sys.modules and "mlflow" not in sys.modules
import mlflow
mlflow.MlflowClient
"""


def test_deepspeed_comes_without_mlflow_which_can_be_imported_later():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
