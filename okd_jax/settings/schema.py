"""Every setting of a run and of a comparison: type, default, rule, meaning.

What the checks refuse, what may differ when a run goes on, what a recipe starts
from and the page docs/settings.md all follow from the classes here and from
those of the data, the optimiser and the methods.
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

# Above it the device's integers end.
_MOST = 2**31
# A group of so many is a mistake; to find out otherwise would take hours.
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
  lambda v: 0 < len(v) == len(set(v)) and all(isinstance(w, str) for w in v),
  "names, at least one, and none twice",
)
_SOME_SEEDS = Rule(
  lambda v: 0 < len(v) == len(set(v)) and all(0 <= w < _MOST for w in v),
  f"whole numbers from 0 and below {_MOST}, at least one, and none twice",
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
    kind: replicas are whole networks, branches are tails on one shared trunk.
    net: a name of okd_jax.backbones, or module:Class for a network of your
      own; one a peer, joined by commas, if they differ.
    num_peers: networks or branches, the leader included.
    split: stages in the trunk; 0 is the network's own choice, -1 no stage but
      the stem.
    dropout: rate in the classifier, for networks that have one (vgg16).
    mapping: unroll, vmap, or auto, which measures once which is faster.
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
    data: devices that the batch is spread over; -1 is all that are left.
    peer: devices that the peers are spread over; -1 takes as many as divide
      both whole networks of one shape and the accelerators of a process, 1 for
      other groups, and what suits the cores on CPU.
  """

  data: int = rules.field(-1, _AXIS, free_on_resume=True)
  peer: int = rules.field(-1, _AXIS, free_on_resume=True)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A run. The defaults are those of Chen et al., AAAI 2020, on CIFAR-100.

  Attributes:
    seed: sets initial values, order of examples, augmentation and dropout.
    num_seeds: so many runs, of seed, seed + 1 and so on, each in a folder of
      its own.
    epochs: passes over the training examples, which schedules are stretched
      over.
    extra_epochs: passes after those, at the rates that the schedules end with;
      a finished run goes on when this is raised.
    batch_size: images in one step, over all devices.
    accumulate: parts of a batch, one after another, whose gradients are
      averaged before the update: as many times less memory, and the same
      numbers where nothing depends on the other examples of a batch.
    ema_decay: weights averaged with this decay are evaluated and deployed; 0
      for none. Methods with averages of their own have a key for it.
    eval_batch_size: images in one step of evaluation, over all devices.
    rampup_epochs: epochs until distillation has its full weight.
    rampup_per_step: whether the ramp-up moves every step; every epoch
      otherwise.
    precision: what networks compute in.
    deterministic: same numbers on every run on a GPU too, at some cost.
    teacher: the frozen teacher of two-stage distillation: the work directory
      of a run, or a PyTorch state dict (.safetensors, .pth). It may have moved
      when a run goes on, but not have other weights.
    teacher_net: the network that a teacher's state dict belongs to.
    image_mean: mean of each channel; empty for the data set's own.
    image_std: deviation of each channel; empty for the data set's own.
    pad_mode: how images are padded before the crop, constant (black), reflect
      or symmetric, which repeats the edge.
    label_smoothing: share of every training target that is spread evenly over
      all classes.
    class_weights: what a training example of each class counts, in all terms
      of the loss; empty for 1.
    init_from: trained weights to start from: the work directory of a group of
      the same shape, or for every peer an exported leader or a PyTorch state
      dict.
    init_from_head: whether classifiers are taken over as well; false draws
      them anew, for other classes.
    log_steps: steps between two records of the loss terms, which are means
      over them.
    eval_epochs: epochs between two evaluations.
    checkpoint_secs: seconds between two checkpoints.
    best_by: the figure by which a step is the best, such as
      validation/ensemble/accuracy; empty for the leader's headline, on
      validation data if there are any and on test data otherwise.
    deploy: last or best, the step that is exported and evaluated. The best one
      is kept only where it is asked for.
    patience: evaluations without a better one after which the run ends; 0 for
      none.
    trackers: experiment trackers to log to as well.
    data: what to train on.
    augment: random changes of pictures and targets.
    peers: the group.
    optim: the optimiser.
    schedule: of the learning rate.
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
    methods: rows besides one network alone, which is always there.
    nets: the networks to compare on.
    seeds: of the runs of every row, one by one: 0,1,2 are three, 2 is one.
    kinds: the kind of group that each method trains.
    options: hyperparameters of each method, where they are not its defaults; a
      grid comes before them.
    teacher_net: a larger network: the trained teacher of kd and ctkd, and the
      one that learns along in ctkd and switokd.
    published: a file of figures to stand beside ours.
    grid: values for keys of the runs, each of which makes rows of its own;
      given as --grid.KEY.
  """

  base: RunConfig = RunConfig()
  methods: tuple[str, ...] = rules.field((), _SOME_TEXTS)
  nets: tuple[str, ...] = rules.field((), _SOME_TEXTS)
  seeds: tuple[int, ...] = rules.field((), _SOME_SEEDS)
  kinds: Mapping[str, str] = rules.field(
    None,
    Rule(
      lambda v: set(v.values()) <= set(_KINDS),
      f"{' or '.join(_KINDS)} for every method",
    ),
  )
  options: Mapping[str, Mapping[str, Any]] | None = rules.field(
    None,
    Rule(
      lambda v: all(isinstance(each, Mapping) for each in v.values()),
      "a section for every method",
    ),
  )
  teacher_net: str = rules.text("", "the name of a network")
  published: str = rules.text("", "a file like configs/published.json")
  grid: Mapping[str, tuple[Any, ...]] | None = rules.field(
    None, Rule(lambda v: True, "a tuple of values for every key")
  )
