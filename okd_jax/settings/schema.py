"""Every setting of a run and of a comparison: type, default, rule, meaning.

The classes here and those of the data, the optimiser and the methods determine
what the checks refuse, what may differ when a run is resumed, what a recipe
starts from, and the page docs/settings.md.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from okd_jax import rules
from okd_jax.data import Config
from okd_jax.data.augmentation import Augment
from okd_jax.groups.map_peers import MAPPINGS
from okd_jax.rules import Rule
from okd_jax.training.optim import Optim
from okd_jax.training.schedule import Schedule

# The integers of the device end here.
_MOST = 2**31
# A larger group is a mistake, which would otherwise be noticed hours later.
_MOST_PEERS = 1024
_MOST_SEEDS = 1024

_AXIS = Rule(
  lambda v: v == -1 or 1 <= v < _MOST, "-1 or at least 1", (-2, 0, 10**20)
)
_TRACKERS = Rule(
  lambda v: set(v) <= {"wandb", "mlflow"},
  "some of ('wandb', 'mlflow'), or ()",
  (("tensorboard",), (1,)),
)
_PATH = "a path, or empty"
_SOME_TEXTS = Rule(
  lambda v: (
    isinstance(v, tuple)
    and 0 < len(v) == len(set(v))
    and all(isinstance(w, str) for w in v)
  ),
  "a tuple of names, at least one, and none twice",
)
_SOME_SEEDS = Rule(
  lambda v: (
    isinstance(v, tuple)
    and 0 < len(v) == len(set(v))
    and all(type(w) is int and 0 <= w < _MOST for w in v)
  ),
  f"a tuple of whole numbers from 0 and below {_MOST}, at least one, and none "
  "twice",
)
_WEIGHTS = Rule(
  lambda v: (
    all(0 <= weight <= rules.LARGEST for weight in v)
    and max(v, default=1.0) >= rules.SMALLEST
  ),
  "empty, or numbers, each of them at least 0, and one of them above 0",
  (("a",), (None,), (-1.0,), (math.inf,), (math.nan,), (0.0, 0.0)),
)
_KINDS = ("replicas", "branches")


@dataclasses.dataclass(frozen=True)
class Peers:
  """The group.

  Attributes:
    kind: "replicas" are complete networks; "branches" share one trunk and have
      a tail each.
    net: name of a network of okd_jax.backbones, or module:Class for a network
      of your own; if the peers differ, one name for each, joined by commas.
    num_peers: number of networks or branches, the leader included.
    split: number of stages in the shared trunk; 0 is the network's default, -1
      shares only the stem.
    dropout: dropout rate in the classifier, for networks that have it (vgg16).
    mapping: how equal peers are run: "unroll", "vmap", or "auto", which
      measures once which of the two is faster.
  """

  kind: str = rules.one_of("replicas", *_KINDS)
  net: str = rules.text("resnet32", "names of networks, joined by commas")
  num_peers: int = rules.between(4, 1, _MOST_PEERS + 1)
  split: int = rules.between(0, -1, _MOST)
  dropout: float = rules.between(0.0, 0, 1)
  mapping: str = rules.one_of("auto", *MAPPINGS, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The devices.

  Attributes:
    data: number of devices that the batch is spread over; -1 takes all that
      config.mesh.peer leaves.
    peer: number of devices that the peers are spread over. On accelerators, -1
      takes the largest number that divides both the peers and the devices of a
      process if the peers are replicas of one network, and 1 for other groups;
      on CPU it takes what suits the cores. If data is set, -1 is 1.
  """

  data: int = rules.field(-1, _AXIS, free_on_resume=True)
  peer: int = rules.field(-1, _AXIS, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A run. The defaults are those of Chen et al., AAAI 2020, on CIFAR-100.

  Attributes:
    seed: seed of the initial values, the order of examples, augmentation and
      dropout.
    num_seeds: number of runs, with the seeds seed, seed + 1 and so on, each in
      a folder of its own.
    epochs: passes over the training examples; the schedules are stretched to
      this length.
    extra_epochs: further passes, at the rates that the schedules end with; to
      continue a finished run, raise it.
    batch_size: images in one training step, over all devices.
    accumulate: number of equal parts that a batch is divided into. They are
      computed one after another, and their gradients are averaged before the
      update: this divides the memory by that number, and gives the same
      results where nothing depends on the other examples of a batch.
    ema_decay: decay of the averaged weights, which are then evaluated and
      deployed; 0 for none. Methods that average weights themselves have a key
      of their own.
    eval_batch_size: images in one step of evaluation, over all devices.
    rampup_epochs: epochs until the distillation terms have their full weight.
    rampup_per_step: whether the ramp-up advances at every step; otherwise at
      every epoch.
    precision: floating-point type that the networks compute in.
    deterministic: whether runs give the same numbers on a GPU too, which costs
      some speed.
    teacher: the frozen teacher of two-stage distillation: the work directory
      of a run, or a PyTorch state dict (.safetensors, .pth). It may have moved
      when a run is resumed, but must have the same weights.
    teacher_net: the network that a teacher's state dict belongs to.
    image_mean: mean of each channel; empty for the data set's own.
    image_std: standard deviation of each channel; empty for the data set's own.
    pad_mode: how images are padded before the crop: "constant" (black),
      "reflect", or "symmetric", which repeats the edge.
    label_smoothing: share of every training target that is spread evenly over
      all classes.
    class_weights: weight of the training examples of each class, in all terms
      of the loss; empty gives every class a weight of 1.
    init_from: trained weights to start from: the work directory of a group of
      the same shape; or an exported leader or a PyTorch state dict, from which
      every peer starts.
    init_from_head: whether the classifiers are taken from there, too; False
      initialises them at random, for other classes.
    log_steps: steps between two records of the loss terms; each record is the
      mean over these steps.
    eval_epochs: epochs between two evaluations.
    checkpoint_secs: seconds between two checkpoints.
    best_by: the figure that decides which evaluation is the best, such as
      validation/ensemble/accuracy; empty for the leader's headline figure, on
      validation data if there are any and on test data otherwise.
    deploy: which step is exported and evaluated, "last" or "best". The best
      one is kept only if this is "best".
    patience: number of evaluations in a row without a new best one after which
      the run ends; 0 never ends it early.
    trackers: experiment trackers to log to as well.
    data: what to train on.
    augment: random changes of pictures and targets.
    peers: the group.
    optim: the optimiser.
    schedule: the schedule of the learning rate.
    mesh: the devices.
    method: the name of a method and its hyperparameters.
  """

  seed: int = rules.between(0, 0, _MOST)
  num_seeds: int = rules.between(
    1, 1, _MOST_SEEDS + 1, free_on_resume=True, added=True
  )
  epochs: int = rules.between(300, 1, _MOST, free_on_resume=True)
  extra_epochs: int = rules.between(
    0, 0, _MOST, free_on_resume=True, added=True
  )
  batch_size: int = rules.between(128, 1, _MOST)
  accumulate: int = rules.between(1, 1, 2**16, added=True)
  ema_decay: float = rules.between(0.0, 0, 1, added=True)
  eval_batch_size: int = rules.between(500, 1, _MOST, free_on_resume=True)
  rampup_epochs: int = rules.between(
    80, 0, _MOST, follows=("epochs", lambda epochs: (epochs * 160 + 300) // 600)
  )
  rampup_per_step: bool = rules.flag(False)
  precision: str = rules.one_of("float32", "float32", "bfloat16")
  deterministic: bool = rules.flag(False)
  teacher: str = rules.text("", _PATH)
  teacher_net: str = rules.text("", "the name of a network, or empty")
  image_mean: tuple[float, ...] = rules.each((), rules.FINITE)
  image_std: tuple[float, ...] = rules.each((), rules.POSITIVE)
  pad_mode: str = rules.one_of("constant", "constant", "reflect", "symmetric")
  label_smoothing: float = rules.between(0.0, 0, 1, added=True)
  class_weights: tuple[float, ...] = rules.field((), _WEIGHTS, added=True)
  init_from: str = rules.text("", _PATH)
  init_from_head: bool = rules.flag(True, added=True)
  log_steps: int = rules.between(50, 1, _MOST, free_on_resume=True)
  eval_epochs: int = rules.between(1, 1, _MOST, free_on_resume=True)
  checkpoint_secs: float = rules.positive(60.0, free_on_resume=True)
  best_by: str = rules.text("", "the name of a figure, or empty", added=True)
  deploy: str = rules.one_of("last", "last", "best", added=True)
  patience: int = rules.between(0, 0, _MOST, free_on_resume=True, added=True)
  trackers: tuple[str, ...] = rules.field((), _TRACKERS, free_on_resume=True)
  data: Config = Config(name="cifar100")
  augment: Augment = Augment()
  peers: Peers = Peers()
  optim: Optim = Optim()
  schedule: Schedule = Schedule()
  mesh: Mesh = Mesh()
  # Of a class made for the method, see `okd_jax.settings.freeze`; None where a
  # comparison puts one method after another.
  method: Any = None


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A comparison of methods.

  Attributes:
    base: the recipe of all runs, without a method.
    methods: the methods to compare; a single network trained alone is always
      compared as well.
    nets: the networks to compare on.
    seeds: seeds of the runs of every row, as a list: 0,1,2 are three runs, 2
      is one run with seed 2.
    kinds: the kind of group that each method trains.
    options: hyperparameters of each method that differ from its defaults; the
      values of a grid replace them.
    teacher_net: a larger network: the trained teacher of kd and ctkd, and the
      teacher that is trained along with the student in ctkd and switokd.
    published: a file of published figures to show beside ours.
    grid: values to try for keys of the runs; each combination makes a row of
      its own. Given as --grid.KEY.
  """

  base: RunConfig = RunConfig()
  methods: tuple[str, ...] = rules.field((), _SOME_TEXTS)
  nets: tuple[str, ...] = rules.field((), _SOME_TEXTS)
  seeds: tuple[int, ...] = rules.field((), _SOME_SEEDS)
  kinds: Mapping[str, str] | None = rules.field(
    None,
    Rule(
      lambda v: isinstance(v, Mapping) and set(v.values()) <= set(_KINDS),
      f"{' or '.join(_KINDS)} for every method",
    ),
  )
  options: Mapping[str, Mapping[str, Any]] | None = rules.field(
    None,
    Rule(
      lambda v: (
        isinstance(v, Mapping)
        and all(isinstance(each, Mapping) for each in v.values())
      ),
      "a section for every method",
    ),
  )
  teacher_net: str = rules.text("", "the name of a network")
  published: str = rules.text("", "a file like configs/published.json")
  grid: Mapping[str, tuple[Any, ...]] | None = rules.field(
    None,
    Rule(
      lambda v: (
        isinstance(v, Mapping)
        and all(isinstance(each, tuple | list) for each in v.values())
      ),
      "a tuple of values for every key",
    ),
  )
