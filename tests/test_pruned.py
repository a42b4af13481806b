"""The cache of the tests' own programs stays small."""

import os

import pruned


def test_the_oldest_programs_go(tmp_path):
  for age in range(10):
    (tmp_path / str(age)).write_bytes(b"x" * 100)
    os.utime(tmp_path / str(age), (1000 - age, 1000 - age))
  pruned.prune(tmp_path, 1000)
  assert len(list(tmp_path.iterdir())) == 10
  pruned.prune(tmp_path, 999)
  assert {path.name for path in tmp_path.iterdir()} == set("0123")
  pruned.prune(tmp_path / "nowhere", 0)
