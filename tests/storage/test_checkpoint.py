"""Nothing lost, nothing silent: saving, verifying and restoring.

The letters are rows of the reliability table of the README.
"""

from collections import namedtuple
import hashlib
import json
import logging
import os
from pathlib import Path
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from flax import struct
from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from okd_jax.errors import CheckpointError
from okd_jax.storage import manifest
from okd_jax.storage.checkpoint import Checkpoints

Moments = namedtuple("Moments", ["mean", "square"])


@struct.dataclass
class State:
  """A state with every kind of node and leaf that a real one has."""

  step: jax.Array
  variables: dict[str, Any]
  moments: Moments
  opt_state: Any
  epochs: int


def make_state(seed: int = 0) -> State:
  rng = np.random.default_rng(seed)
  params = {
    "stem": {"kernel": jnp.asarray(rng.normal(size=(3, 8)), jnp.float32)},
    "scale": jnp.asarray(rng.normal(size=(8,)), jnp.bfloat16),
  }
  return State(
    step=jnp.asarray(seed, jnp.int32),
    variables={"params": params, "batch_stats": {}},
    moments=Moments(jnp.zeros(4), np.arange(4, dtype=np.uint8)),
    opt_state=optax.chain(
      optax.trace(0.9), optax.scale_by_schedule(lambda _: 1.0)
    ).init(params),
    epochs=seed + 1,
  )


def abstract(state: Any) -> Any:
  return jax.tree.map(
    lambda x: (
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
      if isinstance(x, jax.Array)
      else x
    ),
    state,
  )


def assert_same(actual: Any, expected: Any) -> None:
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  for a, b in pairs:
    assert type(a) is type(b)
    assert np.asarray(a).dtype == np.asarray(b).dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def files_of(directory: Path, step: int) -> list[Path]:
  inside = (directory / str(step)).rglob("*")
  return [directory / f"{step}.manifest.json"] + sorted(
    path for path in inside if path.is_file()
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Steps 1 and 2, made once; tests damage a copy."""
  directory = tmp_path_factory.mktemp("saved")
  checkpoints = Checkpoints(directory)
  for step in (1, 2):
    checkpoints.save(step, make_state(step), extra={"examples": 64 * step})
  checkpoints.finish()
  return directory


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
  return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def test_any_pytree_comes_back_bitwise(directory: Path):
  state, step, extra = Checkpoints(directory).restore(abstract(make_state()))
  assert (step, extra) == (2, {"examples": 128})
  assert_same(state, make_state(2))
  state, step, extra = Checkpoints(directory).restore(abstract(make_state()), 1)
  assert (step, extra) == (1, {"examples": 64})
  assert_same(state, make_state(1))


def test_abstract_state_needs_no_sharding(directory: Path):
  shapes = jax.eval_shape(make_state)
  state, _, _ = Checkpoints(directory).restore(shapes)
  np.testing.assert_array_equal(
    state.variables["params"]["scale"],
    make_state(2).variables["params"]["scale"],
  )
  assert int(state.epochs) == 3


def test_donated_buffers_do_not_reach_the_save(tmp_path: Path):
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
  )
  expected = np.arange(2**16, dtype=np.float32)
  tree = {"a": jnp.asarray(expected), "b": jnp.ones(3)}
  host = np.ones(3)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {**tree, "host": host})
  source = tree["a"]
  tree = overwrite(tree)
  host[:] = 0
  assert source.is_deleted()
  checkpoints.finish()
  state, _, _ = checkpoints.restore(abstract({**tree, "host": host}))
  np.testing.assert_array_equal(state["a"], expected)
  np.testing.assert_array_equal(state["host"], np.ones(3))


@pytest.mark.checklist("C1")
def test_c1_every_flipped_bit_is_found(directory: Path, caplog):
  checkpoints = Checkpoints(directory)
  rng = random.Random(0)
  files = files_of(directory, 2)
  positions = [(f, i) for f in files for i in range(8 * f.stat().st_size)]
  # Half of them among the files, else the largest would take nearly all.
  flips = rng.sample(positions, 50)
  for _ in range(50):
    file = rng.choice(files)
    flips.append((file, rng.randrange(8 * file.stat().st_size)))
  for file, bit in flips:
    intact = file.read_bytes()
    damaged = bytearray(intact)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    caplog.clear()
    assert checkpoints.latest_verified() == 1, (file, bit)
    (message,) = caplog.messages
    assert str(file) in message and "step 2" in message
    file.write_bytes(intact)
  assert checkpoints.latest_verified() == 2


@pytest.mark.checklist("C1")
def test_c1_previous_step_is_restored(directory: Path, caplog):
  largest = max(files_of(directory, 2)[1:], key=lambda f: f.stat().st_size)
  raw = bytearray(largest.read_bytes())
  raw[len(raw) // 2] ^= 16
  largest.write_bytes(raw)
  state, step, _ = Checkpoints(directory).restore(abstract(make_state()))
  assert step == 1
  assert_same(state, make_state(1))
  assert str(largest) in caplog.text
  with pytest.raises(CheckpointError, match="damaged"):
    Checkpoints(directory).restore(abstract(make_state()), 2)


@pytest.mark.parametrize("harm", ["truncate", "empty", "delete", "folder"])
@pytest.mark.checklist("C2")
def test_c2_damaged_files_are_named(directory: Path, harm: str, caplog):
  for file in files_of(directory, 2):
    intact = file.read_bytes()
    if harm == "truncate":
      file.write_bytes(intact[:-1])
    elif harm == "empty":
      file.write_bytes(b"")
    else:
      file.unlink()
    if harm == "folder":  # cannot be read, whoever asks
      file.mkdir()
    caplog.clear()
    assert Checkpoints(directory).latest_verified() == 1
    assert str(file) in caplog.text
    if harm == "folder":
      file.rmdir()
    file.write_bytes(intact)


@pytest.mark.checklist("C2")
def test_c2_no_verified_step_is_refused(directory: Path):
  for step in (1, 2):
    files_of(directory, step)[-1].write_bytes(b"")
  assert Checkpoints(directory).latest_verified() is None
  with pytest.raises(CheckpointError, match="has 0 bytes, .*start anew"):
    Checkpoints(directory).restore(abstract(make_state()))


def test_where_nothing_was_saved_yet_waiting_is_the_remedy(tmp_path: Path):
  with pytest.raises(CheckpointError, match="wait for the first save"):
    Checkpoints(tmp_path / "none").restore(abstract(make_state()))


@pytest.mark.checklist("C2")
def test_a_manifest_of_another_step_is_not_used(directory: Path, caplog):
  shutil.move(directory / "2.manifest.json", directory / "3.manifest.json")
  shutil.move(directory / "2", directory / "3")
  assert Checkpoints(directory).latest_verified() == 1
  assert "is of step 2" in caplog.text


@pytest.mark.checklist("A3")
def test_a3_what_a_dead_save_leaves_is_never_used(directory: Path, caplog):
  # Between write and rename, rename and manifest, and within the manifest.
  shutil.copytree(directory / "2", directory / "3.orbax-checkpoint-tmp")
  shutil.copytree(directory / "2", directory / "4")
  shutil.copytree(directory / "2", directory / "5")
  text = (directory / "2.manifest.json").read_bytes()
  (directory / "5.manifest.json.tmp").write_bytes(text[:100])
  shutil.copytree(directory / "2", directory / "0.deleted")
  before = sorted(directory.rglob("*"))
  checkpoints = Checkpoints(directory)
  assert checkpoints.latest_verified() == 2
  assert checkpoints.steps() == [1, 2]
  assert "step 5" in caplog.text and "cut off" in caplog.text
  assert sorted(directory.rglob("*")) == before, "reading has changed files"
  checkpoints.save(4, make_state(4), wait=True)
  names = sorted(path.name for path in directory.iterdir())
  assert names == ["2", "2.manifest.json", "4", "4.manifest.json"]
  state, step, _ = checkpoints.restore(abstract(make_state()))
  assert step == 4
  assert_same(state, make_state(4))


# Holds still in its second save, where it is to be killed.
KILLED = """
import sys, time
import numpy as np
from orbax.checkpoint import PyTreeCheckpointHandler
from okd_jax.storage import manifest
from okd_jax.storage.checkpoint import Checkpoints
from okd_jax.storage.steps import Steps
checkpoints = Checkpoints(sys.argv[1])
first = checkpoints.latest_verified() or 0
state = {str(i): np.full((64, 64), i + first, "float32") for i in range(50)}
print("from", first, flush=True)
checkpoints.save(first + 1, state, wait=True)
def hold(*args, **kwargs):
  print("inside", flush=True)
  time.sleep(600)
setattr(*[
  (PyTreeCheckpointHandler, "finalize"),
  (manifest, "write"),
  (Steps, "retain"),
][int(sys.argv[2])], hold)
checkpoints.save(first + 2, state, wait=True)
"""


@pytest.mark.long
@pytest.mark.checklist("A2")
def test_a2_kill_inside_a_save(tmp_path: Path):
  like = {str(i): np.zeros((64, 64), np.float32) for i in range(50)}
  newest = 0
  # Before its arrays have their name, before the manifest, and after that.
  for moment, saved in enumerate((1, 1, 2)):
    with subprocess.Popen(
      [sys.executable, "-c", KILLED, str(tmp_path), str(moment)],
      stdout=subprocess.PIPE,
      text=True,
    ) as process:
      assert process.stdout is not None
      assert process.stdout.readline() == f"from {newest}\n"
      assert process.stdout.readline() == "inside\n"
      process.send_signal(signal.SIGKILL)
    named = (tmp_path / str(newest + 2)).exists()
    assert named == (moment > 0)
    assert named or list(tmp_path.glob(f"{newest + 2}.*tmp*"))
    found = Checkpoints(tmp_path).latest_verified()
    assert found == newest + saved
    state, _, _ = Checkpoints(tmp_path).restore(like)
    np.testing.assert_array_equal(state["7"], np.full((64, 64), 7 + newest))
    newest = found


@pytest.mark.checklist("C3")
def test_c3_another_configuration_is_refused_before_files_are_read(
  directory: Path, monkeypatch: pytest.MonkeyPatch
):
  def read(*args: Any):
    raise AssertionError("it takes as long as a checkpoint is large")

  monkeypatch.setattr(manifest, "check_files", read)
  other = make_state()
  other.variables["params"]["stem"]["kernel"] = jnp.zeros((5, 8))
  other.variables["params"]["gate"] = jnp.zeros((2, 2), jnp.bfloat16)
  with pytest.raises(CheckpointError) as error:
    Checkpoints(directory).restore(abstract(other), 2)
  text = str(error.value)
  kernel = "variables/params/stem/kernel"
  assert f"{kernel}: saved float32[3,8], wanted float32[5,8]" in text
  assert "params/gate: saved nothing, wanted bfloat16[2,2]" in text


@pytest.mark.checklist("C3")
def test_c3_another_hash_is_refused(tmp_path: Path):
  state = {"a": jnp.ones(2)}
  Checkpoints(tmp_path, config_hash="one").save(1, state, wait=True)
  with pytest.raises(CheckpointError, match="saved one, now two"):
    Checkpoints(tmp_path, config_hash="two").restore(abstract(state))
  assert Checkpoints(tmp_path).restore(abstract(state))[1] == 1
  # Nor is it overwritten by a run that has not restored it.
  with pytest.raises(CheckpointError, match="saved one, now two"):
    Checkpoints(tmp_path, config_hash="two").save(1, state, wait=True)
  assert Checkpoints(tmp_path, config_hash="one").latest_verified() == 1


def mesh_state(data: int, peer: int, fill: bool) -> dict[str, Any]:
  mesh = jax.make_mesh(
    (data, peer),
    ("data", "peer"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[: data * peer],
  )
  rng = np.random.default_rng(0)
  values = {
    "kernel": (rng.normal(size=(4, 3, 8)), PartitionSpec("peer")),
    "batch": (rng.normal(size=(4, 8)), PartitionSpec("peer", "data")),
    "trunk": (rng.normal(size=(5,)), PartitionSpec()),
  }
  shardings = {k: NamedSharding(mesh, spec) for k, (_, spec) in values.items()}
  if fill:
    arrays = {k: value.astype(np.float32) for k, (value, _) in values.items()}
    return jax.device_put(arrays, shardings)
  return {
    k: jax.ShapeDtypeStruct(v.shape, jnp.float32, sharding=shardings[k])
    for k, (v, _) in values.items()
  }


@pytest.mark.parametrize(
  "saved_on, restored_on",
  [((4, 2), (1, 1)), ((1, 1), (4, 2)), ((4, 2), (8, 1)), ((8, 1), (2, 4))],
)
@pytest.mark.checklist("C4")
def test_c4_restores_onto_another_mesh(tmp_path, saved_on, restored_on):
  original = mesh_state(*saved_on, fill=True)
  Checkpoints(tmp_path).save(1, original, wait=True)
  wanted = mesh_state(*restored_on, fill=False)
  state, _, _ = Checkpoints(tmp_path).restore(wanted)
  for name, array in state.items():
    np.testing.assert_array_equal(array, original[name])
    assert array.sharding == wanted[name].sharding


@pytest.mark.checklist("C5")
def test_c5_failed_background_save_is_raised_by_the_next(
  directory: Path, monkeypatch: pytest.MonkeyPatch
):
  checkpoints = Checkpoints(directory)
  broken = threading.Event()

  def fail(path: Path, content: manifest.Manifest) -> None:
    broken.set()
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(manifest, "write", fail)
    checkpoints.save(3, make_state(3))
    assert broken.wait(60)
    assert checkpoints.latest_verified() == 2
    with pytest.raises(CheckpointError, match="step 3 .*No space left"):
      checkpoints.check()
    checkpoints.check()
    checkpoints.save(3, make_state(3))
    with pytest.raises(CheckpointError, match="step 3 .*No space left"):
      checkpoints.save(4, make_state(4))
  # Once the cause is gone the same object goes on.
  checkpoints.save(4, make_state(4), wait=True)
  assert checkpoints.latest_verified() == 4
  assert_same(checkpoints.restore(abstract(make_state()), 2)[0], make_state(2))


@pytest.mark.checklist("F1")
def test_f1_disk_that_refuses_to_be_written(directory: Path):
  checkpoints = Checkpoints(directory)
  noise = np.random.default_rng(0).integers(0, 256, 2**21, dtype=np.uint8)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Writes of Orbax itself fail, with root's rights too.
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, hard))
  try:
    with pytest.raises(CheckpointError, match="Earlier checkpoints"):
      checkpoints.save(3, {"noise": noise}, wait=True)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert Checkpoints(directory).latest_verified() == 2
  assert not list(directory.glob("3*")), "a failed save leaves nothing behind"
  checkpoints.save(3, {"noise": noise}, wait=True)
  assert checkpoints.latest_verified() == 3


@pytest.mark.checklist("F1")
def test_f1_too_little_space_is_refused_before_writing(
  directory: Path, monkeypatch: pytest.MonkeyPatch
):
  state = {"a": jnp.zeros(1000, jnp.float32), "b": 3}
  usage = namedtuple("usage", ["total", "used", "free"])
  before = sorted(directory.rglob("*"))
  for free, fits in ((8007, False), (8008, True)):
    monkeypatch.setattr(
      shutil, "disk_usage", lambda _, free=free: usage(10**9, 0, free)
    )
    if fits:
      Checkpoints(directory).preflight(abstract(state))
    else:
      with pytest.raises(CheckpointError, match="MB free, a save needs twice"):
        Checkpoints(directory).save(3, state)
  assert sorted(directory.rglob("*")) == before


@pytest.mark.checklist("F1")
def test_f1_directory_that_cannot_be_made(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  (tmp_path / "file").write_text("")
  with pytest.raises(CheckpointError, match="cannot be written"):
    Checkpoints(tmp_path / "file" / "checkpoints").save(1, {"a": 1})
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  with pytest.raises(CheckpointError, match="read-only"):
    Checkpoints(tmp_path).save(1, {"a": 1})


@pytest.mark.checklist("F2")
def test_f2_newest_and_best_are_kept(tmp_path: Path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  scores = {1: 0.3, 2: 0.9, 3: 0.5, 4: None, 5: 0.4}
  for step, score in scores.items():
    checkpoints.save(step, {"a": step}, score=score)
  checkpoints.finish()
  assert checkpoints.steps() == [2, 4, 5]
  assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [
    "2",
    "4",
    "5",
  ]


@pytest.mark.checklist("F2")
def test_f2_damaged_steps_do_not_count(tmp_path: Path, caplog):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step in (1, 2):
    checkpoints.save(step, {"a": step}, score=float(step), wait=True)
  files_of(tmp_path, 2)[-1].write_bytes(b"")
  checkpoints.save(3, {"a": 3}, wait=True)
  assert checkpoints.steps() == [1, 3]
  assert "step 2" in caplog.text


@pytest.mark.checklist("F2")
def test_f2_a_failing_save_deletes_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, {"a": 1}, wait=True)
  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(CheckpointError):
      checkpoints.save(2, {"a": 2}, wait=True)
  assert Checkpoints(tmp_path).latest_verified() == 1


def test_saving_a_step_again_replaces_score_and_extra_only(tmp_path: Path):
  checkpoints = Checkpoints(tmp_path)
  state = {"a": jnp.arange(3)}
  checkpoints.save(1, state, wait=True)
  files = files_of(tmp_path, 1)[1:]
  times = [file.stat().st_mtime_ns for file in files]
  checkpoints.save(1, state, score=0.5, extra={"best": True}, wait=True)
  assert [file.stat().st_mtime_ns for file in files] == times
  assert checkpoints.restore(abstract(state))[2] == {"best": True}
  content = manifest.read(tmp_path / "1.manifest.json")
  assert content.score == 0.5


def test_wrong_arguments_are_refused(tmp_path: Path):
  with pytest.raises(ValueError, match="keep=0"):
    Checkpoints(tmp_path, keep=0)
  checkpoints = Checkpoints(tmp_path / "none")
  assert checkpoints.steps() == []
  assert checkpoints.latest_verified() is None
  with pytest.raises(ValueError, match="JSON"):
    checkpoints.save(1, {"a": 1}, extra={"a": object()})
  with pytest.raises(ValueError, match="score=nan"):
    checkpoints.save(1, {"a": 1}, score=float("nan"))
  with pytest.raises(ValueError, match="key is a random key"):
    checkpoints.save(1, {"key": jax.random.key(0)})
  assert not (tmp_path / "none").exists()


def test_verification_is_quick(tmp_path: Path):
  (tmp_path / "1").mkdir()
  for i in range(3):
    (tmp_path / "1" / str(i)).write_bytes(bytes(20 * 10**6))
  manifest.hash_files(tmp_path / "1")

  def seconds(work):
    """Of this processor, whatever else it does; the least of three times."""
    times = []
    for _ in range(3):
      start = time.process_time()
      work()
      times.append(time.process_time() - start)
    return min(times)

  content = bytes(60 * 10**6)
  least = seconds(lambda: hashlib.sha256(content).digest())
  assert seconds(lambda: manifest.hash_files(tmp_path / "1")) < 4 * least


FUZZ_BASE = {
  "version": 1,
  "step": 3,
  "config_hash": "",
  "leaves": [["a", [2, 3], "float32"]],
  "apart": [],
  "files": {"d/0": [10, "00"]},
  "extra": {},
  "score": None,
}
JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda child: st.lists(child) | st.dictionaries(st.text(), child),
  max_leaves=5,
)


def signed(body: Any) -> bytes:
  try:
    return manifest._encode(body)
  except ValueError:
    return json.dumps(body).encode()


@settings(max_examples=100, deadline=None)
@given(
  raw=st.one_of(
    st.binary(max_size=200),
    JSON.map(signed),
    st.tuples(st.sampled_from(sorted(FUZZ_BASE)), JSON).map(
      lambda change: signed(FUZZ_BASE | {change[0]: change[1]})
    ),
  )
)
@pytest.mark.checklist("C2")
def test_fuzzed_manifests_are_read_or_refused(tmp_path_factory, raw: bytes):
  path = tmp_path_factory.getbasetemp() / "fuzzed.json"
  path.write_bytes(raw)
  try:
    content = manifest.read(path)
  except manifest.ManifestError as error:
    assert str(path) in str(error)
  else:
    assert isinstance(content.step, int)


@pytest.mark.parametrize("name", ["/etc/passwd", "../1/a", "d/../../a"])
@pytest.mark.checklist("security")
def test_manifest_cannot_point_outside(tmp_path: Path, name: str):
  path = tmp_path / "m.json"
  path.write_bytes(signed(FUZZ_BASE | {"files": {name: [1, "00"]}}))
  with pytest.raises(manifest.ManifestError, match="outside"):
    manifest.read(path)


def test_messages_are_warnings(directory: Path, caplog):
  (directory / "2.manifest.json").unlink()
  assert Checkpoints(directory).latest_verified() == 1
  assert [record.levelno for record in caplog.records] == [logging.WARNING]
