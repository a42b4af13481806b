"""A run goes on with another number of processes, and its numbers stay."""

import io

import bucket_server
import numpy as np
from PIL import Image
from prepared_copies import write_copy
import pytest
import test_processes as pairs

from okd_jax import __main__


def train(workdir, *counts, flags=()):
  """Trains on four devices, each time in so many processes, a step further."""
  for i, count in enumerate(counts):
    stops = {} if i == len(counts) - 1 else {"stop_at": 1, "ends": True}
    job = pairs.job(
      *(workdir, "okddip", "2x2", "--config.peers.num_peers=4", *flags),
      wide=1,
      **stops,
    )
    if count == 1:
      processes = [pairs.start([job], 4)]
    else:
      processes = pairs.begin([job], count, 4 // count)
    codes, said = pairs.finish(processes, 500)
    assert codes == [0] * count, said


@pytest.mark.slow
@pytest.mark.checklist("B4", "C4")
@pytest.mark.timeout(3600)
def test_one_two_and_four_processes(tmp_path):
  train(tmp_path / "one", 1)
  # Every change from one number to another.
  train(tmp_path / "many", 2, 1, 4, 1, 2, 4, 2)
  assert_same(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
@pytest.mark.checklist("B4", "C4")
@pytest.mark.timeout(3600)
def test_data_in_a_bucket_come_in_the_same_order(tmp_path):
  rng = np.random.default_rng(0)
  contents = []
  for value in rng.integers(0, 256, (16, 8, 8, 3), np.uint8):
    content = io.BytesIO()
    Image.fromarray(value).save(content, "PNG")
    contents.append(content.getvalue())
  made = tmp_path / "copies" / "animals" / "1.0.0"
  labels = [i % 3 for i in range(16)]
  splits = ("train", "test")
  write_copy(made, contents, labels, shape=(8, 8, 3), splits=splits, shards=3)
  with bucket_server.serving("okd-counts") as way:
    way.upload(tmp_path / "copies", "gs://okd-counts/copies")
    __main__.main(["data", "gs://okd-counts/copies/animals/1.0.0", "--index"])
    flags = (
      "--config.data.name=animals",
      "--config.data.dir=gs://okd-counts/copies",
      "--config.data.source=stream",
      "--config.data.image_size=8",
      "--config.data.train_examples=0",
      "--config.batch_size=8",
      "--config.eval_batch_size=8",
    )
    train(tmp_path / "one", 1, flags=flags)
    train(tmp_path / "many", 2, 1, 4, flags=flags)
  assert_same(tmp_path / "one", tmp_path / "many")


def assert_same(a_run, another):
  """Two runs have recorded and kept the same numbers."""
  one, many = (pairs.metrics(each) for each in (a_run, another))
  assert [(r["step"], r["kind"]) for r in one] == [
    (r["step"], r["kind"]) for r in many
  ]
  for a, b in zip(one, many, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"kind"}:
      np.testing.assert_allclose(b[name], a[name], rtol=1e-9, err_msg=name)
  with (
    np.load(a_run / "state.npz") as a,
    np.load(another / "state.npz") as b,
  ):
    assert a.files == b.files
    assert any(a[name].dtype == np.float64 for name in a)
    for name in a.files:
      np.testing.assert_allclose(
        b[name], a[name], rtol=1e-9, atol=1e-12, err_msg=name
      )
