"""The loops of the documentation's page run on the base install."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your_own_loop.md"
LOOPS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

# Flax itself logs by absl, so that is refused only after Flax is there.
BLOCK = """
import sys

ABSENT = ["orbax", "ml_collections", "PIL", "tensorflow", "sklearn",
          "safetensors", "filelock", "tensorboardX", "matplotlib"]

class Absent:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ABSENT:
      raise ModuleNotFoundError(f"{name} is no part of the base install")

sys.meta_path.insert(0, Absent())
import chex, flax.linen, flax.nnx, jax, optax
ABSENT.append("absl")
"""


def run(program):
  return subprocess.run(
    [sys.executable, "-c", BLOCK + program],
    cwd=ROOT,
    env={
      "PATH": "",
      "PYTHONPATH": str(ROOT),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
      "XLA_FLAGS": re.sub(r"\S+device_count=8", "", os.environ["XLA_FLAGS"]),
    },
    capture_output=True,
    text=True,
    timeout=250,
  )


@pytest.mark.long
def test_the_blocker_blocks():
  refused = run("import ml_collections")
  assert refused.returncode and "base install" in refused.stderr
  refused = run("import okd_jax.train")
  assert refused.returncode and "base install" in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize("loop", LOOPS, ids=["replicas", "branches"])
def test_a_loop_of_the_page_trains(loop):
  assert len(loop.strip().splitlines()) <= 40
  done = run(loop)
  assert done.returncode == 0, done.stderr
  (right,) = re.findall(r"right on (\d+)%", done.stdout)
  assert int(right) > 80, done.stdout
