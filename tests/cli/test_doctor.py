"""What `doctor` finds, alone and of several processes about each other."""

import json
import shutil

import pytest
import several

from okd_jax.cli import doctor, hosts
from okd_jax.devices import processes
from okd_jax.runs import display


def test_versions_that_differ_are_named(monkeypatch):
  others = {"jax": "2", "flax": "7"}
  monkeypatch.setattr(
    processes, "gather", lambda word: [word, json.dumps(others)]
  )
  found = hosts._versions({"jax": "1", "flax": "7"})
  assert found[1:] == ("jax 1 in process 0, 2 in process 1", False)
  assert hosts._versions(others)[2]


def test_each_process_has_a_line_of_its_own(monkeypatch, capsys):
  monkeypatch.setattr(processes, "gather", lambda word: [word, "elsewhere, 1"])
  display.table("", ["what", "found"], [row[:2] for row in hosts._hosts()])
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ["process", "1", "elsewhere,", "1"] in rows


def doctors(*workdirs):
  """Runs the command in several processes; codes, and what the first prints."""
  started = several.begin(
    *(("-m", "okd_jax", "doctor", f"--workdir={each}") for each in workdirs)
  )
  said = [each.communicate(timeout=300) for each in started]
  assert [err for _, err in said if "Traceback" in err] == []
  return [each.returncode for each in started], said[0][0]


@pytest.mark.slow
def test_two_processes_see_each_other(tmp_path):
  codes, said = doctors(tmp_path, tmp_path)
  assert codes == [0, 0], said
  for word in ("process 1 ", "alike", "seen by all", "GB/s", "loss"):
    assert word in said
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_found(tmp_path):
  codes, said = doctors(tmp_path / "a", tmp_path / "b")
  assert codes == [1, 1], said
  assert "does not see what" in " ".join(said.split())


def test_a_folder_of_data_that_is_no_path_is_a_problem(monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", "s3://data")
  ((_, found, fine),) = doctor._data_sets()
  assert found.startswith("TFDS_DATA_DIR: 's3://data' must be") and not fine


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_workdir_that_cannot_be_written_is_a_problem(tmp_path, kind):
  there = tmp_path / "there"
  there.write_text("")
  ((_, found, fine),) = doctor._space(
    there if kind == "file" else there / "runs"
  )
  assert not fine and "cannot be written" in found


def test_a_full_disk_is_a_problem(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  assert doctor._space(tmp_path)[0][2]
  monkeypatch.setattr(
    shutil, "disk_usage", lambda path: usage._replace(free=2_000_000)
  )
  ((_, found, fine),) = doctor._space(tmp_path)
  assert not fine and "2.0 MB" in found


def test_digits_without_their_package_are_not_there(monkeypatch):
  monkeypatch.setattr(doctor, "_version", lambda name: doctor._ABSENT)
  what, found, _ = doctor._data_sets()[0]
  assert what == "data: digits" and doctor._ABSENT in found
