"""Takes a network, or the whole group, out of a run."""

from collections.abc import Callable
import json
from pathlib import Path
import re
import shutil
from typing import Any

import jax
from jax import export as jax_export
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import safetensors.numpy

from okd_jax.core import Array, Batch, Variables
from okd_jax.errors import ConfigError
from okd_jax.groups.group import as_outputs
from okd_jax.runs import records as logs
from okd_jax.runs.run import Run
from okd_jax.settings import config as config_lib
from okd_jax.training import step as steps
from okd_jax.weights import exported as leader_lib

FORMATS = ("stablehlo", "savedmodel")
PLATFORMS = ("cpu", "cuda", "tpu")
_AVERAGED = "ema/"

# Float images [B, H, W, c] in [0, 1] to logits [B, C].
ApplyFn = Callable[[Variables, Array], Array]


def export(
  run: Run, to: Path, what: str = "leader", form: str = "stablehlo"
) -> None:
  """Writes a folder with weights, program and card; replaces an older one.

  In a run of several processes all of them call this and the first writes.

  Args:
    run: as from `okd_jax.runs.run.run`.
    to: the folder.
    what: "leader"; "peer_0", "peer_1", ...; "ensemble", the mean of the
      members' logits; or a group prediction of the method. Names are those of
      an evaluation, so "ema/..." are averaged variables.
    form: "stablehlo", see `okd_jax.weights.exported`, or "savedmodel" for
      TensorFlow.

  Raises:
    ConfigError: if there is no prediction of that name, or `to` holds
      something else.
  """
  if to.exists() and not (to / leader_lib.CARD).exists():
    raise ConfigError(
      f"{to} exists and is no exported network; choose another folder."
    )
  apply, variables = function(run, what)
  if jax.process_count() > 1:
    whole = NamedSharding(run.recipe.mesh, PartitionSpec())
    variables = jax.jit(lambda tree: tree, out_shardings=whole)(variables)
  if jax.process_index() != 0:
    return
  weights = {
    name: np.asarray(value)
    for name, value in leader_lib.flatten(variables).items()
  }
  shape = run.recipe.info.image_shape
  written = to.with_name(f"{to.name}.tmp")
  shutil.rmtree(written, ignore_errors=True)
  written.mkdir(parents=True)
  (written / leader_lib.WEIGHTS).write_bytes(safetensors.numpy.save(weights))
  if form == "savedmodel":
    _saved_model().write(_of_weights(apply), weights, shape, written, PLATFORMS)
  else:
    program = _program(_of_weights(apply), weights, shape)
    (written / leader_lib.PROGRAM).write_bytes(program)
  files = {
    str(file.relative_to(written)): leader_lib.digest(file.read_bytes())
    for file in sorted(written.rglob("*"))
    if file.is_file()
  }
  card = describe(run, what) | {"format": form, "files": files}
  text = json.dumps(card, indent=2) + "\n"
  (written / leader_lib.CARD).write_text(text)
  # Only whole folders ever have the final name.
  if to.exists():
    replaced = to.with_name(f"{to.name}.old")
    shutil.rmtree(replaced, ignore_errors=True)
    to.rename(replaced)
    written.rename(to)
    shutil.rmtree(replaced)
  else:
    written.rename(to)


def describe(run: Run, what: str = "leader") -> dict[str, Any]:
  """What a user of a prediction has to know, as JSON values.

  The accuracy is that of the evaluation at the same step, by split; empty if
  there was none.
  """
  config, info = run.config, run.recipe.info
  accuracy = {}
  for record in logs.read_metrics(run.workdir):
    if record["kind"] == "eval" and record["step"] == run.step:
      accuracy = {
        split: record[name]
        for split in ("test", "validation")
        if (name := f"{split}/{what}/accuracy") in record
      }
  nets = config.peers.net.split(",")
  peer = _peer(run, what)
  return {
    "what": what,
    # One name for all peers, or one a peer.
    "network": config.peers.net if peer is None else nets[peer % len(nets)],
    "data": config.data.name,
    "num_classes": info.num_classes,
    "classes": list(info.class_names),
    "image_shape": list(info.image_shape),
    "input": "float32 [batch, height, width, channels] in [0, 1]; "
    "(x - mean) / std is part of the program",
    "output": "float32 [batch, num_classes], logits",
    "mean": list(info.mean),
    "std": list(info.std),
    "resized_crop": info.resized_crop,
    "accuracy": accuracy,
    "method": config.method.name,
    "step": run.step,
    "precision": config.precision,
    "config_hash": config_lib.digest(config),
    "jax": jax.__version__,
  }


def function(run: Run, what: str = "leader") -> tuple[ApplyFn, Variables]:
  """A prediction as a function of variables and images.

  Args:
    run: as from `okd_jax.runs.run.run`.
    what: as for `export`.

  Returns:
    `apply(variables, images)`, see `okd_jax.weights.exported.load_leader`, and
    the variables: those of one network; for an ensemble those of its members by
    name; for another group prediction those of "peers" and "method".

  Raises:
    ConfigError: if there is no prediction of that name.
  """
  recipe = run.recipe
  params, memory, name = _part(run, what)
  peers = steps.variables(params, memory, "peers")
  num_peers = recipe.peers.num_peers
  single = {f"peer_{i}": i for i in range(num_peers)}
  if name in single:
    return _of_peer(run, peers, single[name])
  if name == "ensemble":
    members = {
      f"peer_{i}": _of_peer(run, peers, i)
      for i in recipe.method.members(num_peers)
    }

    def ensemble(variables, images):
      each = [apply(variables[n], images) for n, (apply, _) in members.items()]
      return jnp.mean(jnp.stack(each), 0)

    return ensemble, {n: variables for n, (_, variables) in members.items()}

  method = steps.variables(params, memory, "method")
  variables = {"peers": peers, "method": method}
  known = jax.eval_shape(_of_group(run), variables, recipe.example_images())
  if name not in known:
    there = ["leader", *single, "ensemble", *known]
    averaged = run.state.average is not None
    raise ConfigError(
      f"--what={what} is not a prediction of this run; there are "
      f"{', '.join(dict.fromkeys(there))}"
      f"{' and the same behind ' + _AVERAGED if averaged else ''}."
    )
  return lambda v, images: _of_group(run)(v, images)[name], variables


def _saved_model() -> Any:
  try:
    # Needs TensorFlow, which nothing else here does.
    from okd_jax.weights import saved_model
  except ModuleNotFoundError as error:
    raise ConfigError(
      f"--format=savedmodel: {error}; pip install tensorflow-cpu adds what is "
      "missing."
    ) from error
  return saved_model


def _part(run: Run, what: str) -> tuple[Any, Any, str]:
  """Parameters, memory and the name without its prefix."""
  if what == "leader":
    return *run.deployed, f"peer_{run.leader}"
  if not what.startswith(_AVERAGED):
    return run.state.params, run.state.memory, what
  if run.state.average is None:
    raise ConfigError(
      f"--what={what}: this run has no averaged variables; leave {_AVERAGED} "
      "out."
    )
  average = run.state.average
  return average.params, average.memory, what.removeprefix(_AVERAGED)


def _peer(run: Run, what: str) -> int | None:
  name = f"peer_{run.leader}" if what == "leader" else what
  found = re.fullmatch(rf"(?:{_AVERAGED})?peer_(\d+)", name)
  return int(found[1]) if found else None


def _of_peer(run: Run, peers: Variables, peer: int):
  net, variables = run.recipe.peers.extract(peers, peer)

  def apply(variables, images):
    result = net.apply(variables, _normalize(run, images), train=False)
    return as_outputs(result).logits

  return apply, variables


def _of_group(run: Run) -> Callable[[Variables, Array], dict[str, Array]]:
  def apply(variables, images):
    count = images.shape[0]
    batch = Batch(
      image=_normalize(run, images),
      target=jnp.zeros(count, jnp.int32),
      index=jnp.zeros(count, jnp.int32),
      mask=jnp.ones(count, bool),
    )
    parts = {part: dict(tree) for part, tree in variables.items()}
    params = {part: tree.pop("params", {}) for part, tree in parts.items()}
    return steps.predict_normalized(run.recipe, params, parts, batch)[1]

  return apply


def _normalize(run: Run, images: Array) -> Array:
  mean, std = (
    jnp.asarray(x) for x in (run.recipe.info.mean, run.recipe.info.std)
  )
  return ((images - mean) / std).astype(run.recipe.image_dtype)


def _of_weights(apply: ApplyFn) -> Callable[[dict[str, Any], Array], Array]:
  return lambda weights, images: apply(leader_lib.unflatten(weights), images)


def _program(fn, weights, image_shape) -> bytes:
  (batch,) = jax_export.symbolic_shape("batch")
  shapes = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype)
    for name, value in weights.items()
  }
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
  exported = jax_export.export(jax.jit(fn), platforms=PLATFORMS)(shapes, images)
  return bytes(exported.serialize())
