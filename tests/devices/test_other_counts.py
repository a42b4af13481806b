"""A run goes on with another number of processes, and its numbers stay."""

import numpy as np
import pytest
import test_processes as pairs


def train(workdir, *counts):
  """Trains on four devices, each time in so many processes, a step further."""
  for i, count in enumerate(counts):
    stops = {} if i == len(counts) - 1 else {"stop_at": 1, "ends": True}
    job = pairs.job(
      *(workdir, "okddip", "2x2", "--config.peers.num_peers=4"), wide=1, **stops
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
  one, many = (pairs.metrics(tmp_path / name) for name in ("one", "many"))
  assert [(r["step"], r["kind"]) for r in one] == [
    (r["step"], r["kind"]) for r in many
  ]
  for a, b in zip(one, many, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"kind"}:
      np.testing.assert_allclose(b[name], a[name], rtol=1e-9, err_msg=name)
  with (
    np.load(tmp_path / "one" / "state.npz") as a,
    np.load(tmp_path / "many" / "state.npz") as b,
  ):
    assert a.files == b.files
    assert any(a[name].dtype == np.float64 for name in a)
    for name in a.files:
      np.testing.assert_allclose(
        b[name], a[name], rtol=1e-9, atol=1e-12, err_msg=name
      )
