"""Exports the leader, a peer or a group prediction of a run."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
from typing import Any

import jax
from jax import export as jax_export
import jax.numpy as jnp
import safetensors.numpy

from okd_jax.core import Array, Variables
from okd_jax.devices import mesh
from okd_jax.errors import ConfigError
from okd_jax.groups import as_outputs
from okd_jax.runs import records
from okd_jax.runs.run import Run
from okd_jax.settings import config as config_lib
from okd_jax.storage import files, strict_json
from okd_jax.storage.paths import Path
from okd_jax.tasks import figure as figure_lib
from okd_jax.training import state as state_lib, step as steps
from okd_jax.weights import exported

FORMATS = ("stablehlo", "savedmodel")
PLATFORMS = ("cpu", "cuda", "tpu")

# From variables and float images [B, H, W, c] in [0, 1] to logits [B, *out].
ApplyFn = Callable[[Variables, Array], Array]


def export(
  run: Run, to: Path, what: str = "leader", form: str = "stablehlo"
) -> None:
  """Writes a folder with weights, program and card; replaces an older export.

  If there are several processes, all must call it, and process 0 writes.

  Args:
    run: a run, as from `okd_jax.runs.run.run`.
    to: the folder to write.
    what: which prediction to export: "leader"; "peer_0", "peer_1", ...;
      "ensemble", the mean of the members' logits; or a group prediction of the
      method. Names are those of an evaluation, so "ema/..." means averaged
      variables.
    form: format of the program, one of `FORMATS`: "stablehlo", see
      `okd_jax.weights.exported`, or "savedmodel" for TensorFlow.

  Raises:
    ConfigError: if there is no prediction of that name; if `to` holds something
      else; if a network needs a fixed batch size; or, for "savedmodel", if
      TensorFlow is missing or too old.
  """
  apply, variables = function(run, what)
  is_empty = to.is_dir() and not any(to.iterdir())
  if to.exists() and not is_empty and not (to / exported.CARD).exists():
    raise ConfigError(
      f"{to} must be empty or hold an exported network, which is then "
      "replaced; it holds something else. Choose another folder."
    )
  weights = mesh.to_host(exported.flatten(variables))
  if jax.process_index() != 0:
    return
  shape = run.info.image_shape
  with (
    files.replacing(to, exported.CARD) as written,
    _any_batch_size(),
  ):
    (written / exported.WEIGHTS).write_bytes(safetensors.numpy.save(weights))
    if form == "savedmodel":
      _saved_model().write(
        _of_weights(apply), weights, shape, written, PLATFORMS
      )
    else:
      program = _program(_of_weights(apply), weights, shape)
      (written / exported.PROGRAM).write_bytes(program)
    sums = {
      name: exported.digest((written / name).read_bytes())
      for name in files.names_below(written)
    }
    card = describe(run, what) | {"format": form, "files": sums}
    text = strict_json.text(card) + "\n"
    (written / exported.CARD).write_text(text)


def describe(run: Run, what: str = "leader") -> dict[str, Any]:
  """The card of a prediction: what its users must know, as JSON values.

  It includes the headline figure of each split from the evaluation at the step
  of the run's state; there are none without such an evaluation.
  """
  config, info = run.config, run.info
  headline = run.setup.task.headline(info).name
  headlines = {
    figure.split: value
    for step, figures in records.read_evaluations(run.workdir)
    if step == run.step
    for figure, value in figures.items()
    if (figure.prediction, figure.measure) == (what, headline)
  }
  nets = config.peers.net.split(",")
  peer = _peer(run, what)
  return {
    "what": what,
    # The configuration names one network for all peers, or one for each.
    "network": config.peers.net if peer is None else nets[peer % len(nets)],
    "data": config.data.name,
    "task": info.task,
    "image_shape": list(info.image_shape),
    "input": "float32 [batch, height, width, channels] in [0, 1]; "
    "(x - mean) / std is part of the program",
    "mean": list(info.mean),
    "std": list(info.std),
    "resized_crop": info.resized_crop,
    "exif": info.exif,
    headline: headlines,
    "tested_on": info.num_test,
    "method": config.method.name,
    "step": run.step,
    "precision": config.precision,
    "config_hash": config_lib.digest(config),
    "jax": jax.__version__,
    **run.setup.task.card(info),
  }


def function(run: Run, what: str = "leader") -> tuple[ApplyFn, Variables]:
  """A prediction as a function of variables and images.

  Args:
    run: a run, as from `okd_jax.runs.run.run`.
    what: which prediction, as for `export`.

  Returns:
    A function `apply(variables, images)` that maps float images [B, H, W, c] in
    [0, 1] to logits [B, *out], and its variables: of one network its own; of an
    ensemble those of its members, by name; of another group prediction those of
    "peers" and "method".

  Raises:
    ConfigError: if there is no prediction of that name.
  """
  setup = run.setup
  params, memory, name = _part(run, what)
  peers = steps.variables(params, memory, "peers")
  num_peers = setup.peers.num_peers
  single = {figure_lib.peer(i): i for i in range(num_peers)}
  if name in single:
    return _of_peer(run, peers, single[name])
  if name == figure_lib.ENSEMBLE:
    members = {
      figure_lib.peer(i): _of_peer(run, peers, i)
      for i in setup.method.members(num_peers)
    }

    def ensemble(variables, images):
      logits = [
        apply(variables[n], images) for n, (apply, _) in members.items()
      ]
      return setup.task.combine(jnp.stack(logits))

    return ensemble, {n: variables for n, (_, variables) in members.items()}

  method = steps.variables(params, memory, "method")
  variables = {"peers": peers, "method": method}
  known = jax.eval_shape(_of_group(run), variables, setup.example_images())
  if name not in known:
    live = dict.fromkeys([*single, figure_lib.ENSEMBLE, *known])
    there = [figure_lib.LEADER, *live]
    if run.state.average is not None:
      there += [figure_lib.prediction(who, True) for who in live]
    raise ConfigError(
      f"--what={what} is not a prediction of this run; choose one of "
      f"{', '.join(there)}."
    )
  return lambda v, images: _of_group(run)(v, images)[name], variables


def _saved_model() -> Any:
  try:
    # Only this format needs TensorFlow.
    from okd_jax.weights import saved_model
  except ModuleNotFoundError as error:
    raise ConfigError(
      f"--format=savedmodel needs TensorFlow ({error}); install it with pip "
      "install tensorflow-cpu."
    ) from error
  return saved_model


def _part(run: Run, what: str) -> tuple[Any, Any, str]:
  """Parameters, memory, and the prediction's name without "ema/"."""
  if what == figure_lib.LEADER:
    return *run.deployed, figure_lib.peer(run.leader)
  averaged, who = figure_lib.parse_prediction(what)
  kept = run.state.average if averaged else run.state
  if kept is None:
    raise ConfigError(
      f"--what={what}: this run has no averaged variables; ask for {who}."
    )
  memory = state_lib.without_per_example(run.setup.method, kept.memory)
  return kept.params, memory, who


def _peer(run: Run, what: str) -> int | None:
  if what == figure_lib.LEADER:
    return run.leader
  return figure_lib.peer_index(figure_lib.parse_prediction(what)[1])


def _of_peer(run: Run, peers: Variables, peer: int):
  net, variables = run.setup.peers.extract(peers, peer)

  def apply(variables, images):
    images = run.setup.task.normalize_floats(images)
    return as_outputs(net.apply(variables, images, train=False)).logits

  return apply, variables


def _of_group(run: Run) -> Callable[[Variables, Array], dict[str, Array]]:
  # A method's memory of training examples is not read in evaluation, so the
  # exported program has zeros in its place.
  kept = run.state.memory["method"]
  forgotten = {
    name: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), kept[name])
    for name in run.setup.method.needs.per_example
    if name in kept
  }

  def apply(variables, images):
    batch = run.setup.task.blank(images.shape[0])
    images = run.setup.task.normalize_floats(images)
    batch = dataclasses.replace(batch, image=images)
    # Files keep no empty collections, and a method may have no variables.
    parts = {
      part: dict(variables.get(part, {})) for part in ("peers", "method")
    }
    params = {part: tree.pop("params", {}) for part, tree in parts.items()}
    parts["method"] |= jax.tree.map(
      lambda shape: jnp.zeros(*shape),
      forgotten,
      is_leaf=lambda node: isinstance(node, tuple),
    )
    return steps.predict_normalized(run.setup, params, parts, batch)[1]

  return apply


def _of_weights(apply: ApplyFn) -> Callable[[dict[str, Any], Array], Array]:
  return lambda weights, images: apply(exported.unflatten(weights), images)


def _program(fn, weights, image_shape) -> bytes:
  (batch,) = jax_export.symbolic_shape("batch")
  shapes = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype)
    for name, value in weights.items()
  }
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
  program = jax_export.export(jax.jit(fn), platforms=PLATFORMS)(shapes, images)
  return bytes(program.serialize())


@contextlib.contextmanager
def _any_batch_size() -> Iterator[None]:
  """Explains the error of a program that needs a fixed batch size."""
  unknown = jax.errors.InconclusiveDimensionOperation
  try:
    yield
  except (TypeError, unknown) as error:
    if not (isinstance(error, unknown) or "_DimExpr" in str(error)):
      raise
    raise ConfigError(
      f"this cannot be exported for every batch size ({error}); in networks "
      "and methods take sizes from x.shape, not len(x), and use that of the "
      "batch only for shapes."
    ) from error
