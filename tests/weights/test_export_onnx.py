"""What the script for ONNX leaves behind, with packages that pretend."""

import importlib.util
from pathlib import Path
import sys
import types

import numpy as np
import pytest

from okd_jax.weights import exported

ROOT = Path(__file__).resolve().parents[2]
LEADER = ROOT / "tests" / "fixtures" / "last_release" / "okddip" / "leader"


@pytest.fixture
def script(monkeypatch):
  """The script, and what its pretended runtime does with images."""
  said = types.SimpleNamespace(change=0.0, error=None)

  def apply(variables, images):
    return np.zeros((len(images), 10), np.float32)

  class Session:
    def __init__(self, content):
      if said.error:
        raise said.error

    def run(self, names, inputs):
      return [apply({}, inputs["images"]) + said.change]

  # The program is not among the fixtures.
  monkeypatch.setattr(exported, "load_leader", lambda folder: (apply, {}))
  model = types.SimpleNamespace(SerializeToString=lambda: b"a program")
  for name, content in {
    "jax2onnx": {"to_onnx": lambda *args, **kept: model},
    "onnx": {"save": lambda model, path: Path(path).write_bytes(b"a program")},
    "onnxruntime": {"InferenceSession": Session},
  }.items():
    monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**content))
  path = ROOT / "scripts" / "export_onnx.py"
  spec = importlib.util.spec_from_file_location("export_onnx", path)
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made, said


def run(made, monkeypatch, to):
  argv = ["export_onnx.py", str(LEADER), f"--to={to}"]
  monkeypatch.setattr(sys, "argv", argv)
  made.main()


def test_a_network_that_agrees_is_written(script, monkeypatch, tmp_path):
  to = tmp_path / "new" / "model.onnx"
  run(script[0], monkeypatch, to)
  assert to.read_bytes() == b"a program"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
  script, monkeypatch, tmp_path
):
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(exported, "load_leader", None)
  with pytest.raises(SystemExit, match="okd_jax: .*file is no folder"):
    run(script[0], monkeypatch, tmp_path / "file" / "model.onnx")


def test_a_network_for_keypoints_is_built_again(script):
  card = {"network": "hourglass1_small", "precision": "float32"}
  net = script[0].network(card | {"joints": ["head", "neck", "hip"]})
  assert net.num_classes == 3


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    (1.0, None, r"differ from JAX's by 1.0e\+00.*nothing was written"),
    (np.nan, None, "by nan.*nothing was written"),
    (0.0, RuntimeError("no kernel"), r"cannot run .* \(no kernel\)"),
  ],
)
def test_one_that_fails_the_check_is_not(
  script, monkeypatch, tmp_path, change, error, message
):
  made, said = script
  said.change, said.error = change, error
  to = tmp_path / "model.onnx"
  with pytest.raises(SystemExit, match=message):
    run(made, monkeypatch, to)
  assert not to.exists()
