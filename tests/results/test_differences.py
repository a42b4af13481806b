"""Differences between rows of a comparison: by hand, and by many draws."""

import json

import numpy as np
import pytest

from okd_jax.results import differences
from scripts import paired


def test_differences_are_paired_by_seed():
  # Worked by hand: differences 1, 2, 3; t(2) at 97.5 % is 4.302653.
  ours, theirs = {0: 11.0, 1: 22.0, 2: 33.0, 3: 5.0}, {0: 10, 1: 20, 2: 30}
  found = differences.paired(ours, theirs)
  assert found.mean == pytest.approx(2)
  assert found.margin == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
  # t(3) 3.182446 / 2 = 1.591 is below 2.
  assert found.needed == 4
  assert (found.seeds, str(found)) == (3, "+2.00 ± 2.48")


def test_rows_of_several_folders_are_compared_by_seed(tmp_path, capsys):
  rows = {"ours": {1: 0.11, 2: 0.22, 3: 0.33}, "theirs": {1: 0.1, 2: 0.2}}
  for row, figures in rows.items():
    for seed, value in figures.items():
      workdir = tmp_path / row / f"seed{seed}"
      workdir.mkdir(parents=True)
      last = {"step": 9, "test/leader/accuracy": value}
      (workdir / "summary.json").write_text(json.dumps({"last": last}))
  folders = [str(tmp_path / row) for row in rows]
  paired.main(folders)
  # By hand: 1 and 2, so 1.5 ± 12.706 * 0.7071 / sqrt(2).
  assert capsys.readouterr().out == (
    "test/leader/accuracy, seeds [1, 2]: "
    "16.50 ± 7.78 - 15.00 ± 7.07 = +1.50 ± 6.35\n"
  )
  with pytest.raises(SystemExit, match="has no figure test/all/accuracy, but"):
    paired.main([*folders, "--figures=test/all/accuracy"])
  (tmp_path / "theirs" / "seed1" / "summary.json").unlink()
  with pytest.raises(SystemExit, match=r"fewer than two seeds in common"):
    paired.main(folders)


def test_a_difference_that_is_sure_needs_no_more_seeds():
  ours = {seed: 10 + 0.01 * seed for seed in range(5)}
  assert differences.paired(ours, dict.fromkeys(range(5), 9.0)).needed is None


def test_a_difference_of_nothing_would_need_endless_seeds():
  found = differences.paired({0: 1.0, 1: -1.0}, {0: 0.0, 1: 0.0})
  assert found.needed == np.inf
  # The interval holds 0 also where all differences are 0.
  equal = differences.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
  assert (equal.margin, equal.needed) == (0, np.inf)
  assert differences.paired({0: 2, 1: 3}, {0: 1, 1: 2}).needed is None
  assert str(differences.Difference(-0.001, 1, 5, None)) == "+0.00 ± 1.00"
  assert differences.paired({0: 1.0}, {0: 0.0, 1: 0.0}) is None


def test_a_figure_that_is_no_number_gives_no_difference():
  for figure in (np.nan, np.inf):
    found = differences.paired({0: figure, 1: 1.0}, {0: 0.0, 1: 0.0})
    assert np.isnan(found.margin)
    assert found.needed is None and str(found) == "nan"
    assert differences.peer_effect([[figure, 1.0], [1.0, 2.0]]) is None


def test_peers_that_differ_by_their_place_are_found():
  # By hand: squares of peers 6, of seeds 14/3, of everything 12, so 4/3 are
  # left; F = (6 / 2) / (4/3 / 4). Of F(2, 4), p = (1 + 2 F / 4)**-2.
  effect = differences.peer_effect([[1, 2, 4], [2, 3, 3], [3, 4, 5]])
  assert effect.means == pytest.approx([2, 3, 4])
  assert effect.f == pytest.approx(9)
  assert effect.p == pytest.approx(5.5**-2)
  assert str(effect) == "F 9.00, p 0.03"
  assert str(differences.PeerEffect([], 35.17, 0.000109)) == "F 35.17, p 0.0001"


@pytest.mark.parametrize(
  "figures",
  [
    [[1.0, 2.0]],  # one seed
    [[1.0], [2.0]],  # one peer
    # Nothing is left but rounding errors, which F would make endless.
    [[0.1, 0.2, 0.4], [0.3, 0.4, 0.6]],
  ],
)
def test_too_little_to_test_gives_no_effect(figures):
  assert differences.peer_effect(figures) is None


def test_peers_that_are_alike_are_seldom_called_different():
  draws = np.random.default_rng(0).normal(size=(400, 10, 4))
  # Good and bad seeds do not hide or make differences of peers.
  draws += 5 * np.random.default_rng(1).normal(size=(400, 10, 1))
  share = np.mean([differences.peer_effect(d).p < 0.05 for d in draws])
  assert 0.03 < share < 0.07
