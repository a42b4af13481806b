"""Every check of the conformance suite refuses a method that is wrong."""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from okd_jax import core, losses, methods, testing
from okd_jax.testing import _float64


class Right(core.Method):
  def __call__(self, outputs, batch, ctx):
    return core.MethodOutput({"peer_ce": self.loss(outputs, batch, ctx)})

  def loss(self, outputs, batch, ctx):
    return losses.cross_entropy(outputs.logits, batch.target)


class Reduced(Right):
  def loss(self, outputs, batch, ctx):
    return jnp.mean(super().loss(outputs, batch, ctx))


class Capital(Right):
  def __call__(self, outputs, batch, ctx):
    return core.MethodOutput({"CE": self.loss(outputs, batch, ctx)})


class Silent(Right):
  def __call__(self, outputs, batch, ctx):
    return core.MethodOutput({})


class Unstable(Right):
  def loss(self, outputs, batch, ctx):
    p = jax.nn.softmax(outputs.logits)
    labels = jax.nn.one_hot(batch.target, p.shape[-1])
    return -jnp.log(jnp.sum(p * labels, -1))


class Coarse(Right):
  def loss(self, outputs, batch, ctx):
    small = jnp.asarray(1 + 1e-3, outputs.features.dtype) - 1
    return super().loss(outputs, batch, ctx) / small.astype(jnp.float32)


class Counting(Right):
  calls = [0]

  def loss(self, outputs, batch, ctx):
    self.calls[0] += 1
    return self.calls[0] * super().loss(outputs, batch, ctx)


class DrawsTheSame(Right):
  where: str = "here"

  def loss(self, outputs, batch, ctx):
    key = jax.random.key(0)
    draw = jax.random.normal
    if self.where == "in a loop":
      _, noise = jax.lax.scan(lambda c, _: (c, draw(key)), 0, length=2)
      noise = noise[0]
    elif self.where == "in a call":
      noise = jax.jit(lambda x: x + draw(jax.random.PRNGKey(7)))(ctx.epoch)
    else:
      noise = draw(jax.random.split(key)[1])
    return super().loss(outputs, batch, ctx) + noise


class DrawsAnew(Right):
  where: str = "ctx.key"

  def loss(self, outputs, batch, ctx):
    key = jax.random.fold_in(jax.random.key(0), ctx.step)
    key = ctx.key if self.where == "ctx.key" else key

    def draw(key, _):
      return jax.random.split(key)[0], jax.random.normal(key)

    noise = jax.lax.scan(draw, key, length=2)[1].sum()
    return super().loss(outputs, batch, ctx) + noise


class HardOnly(Right):
  def loss(self, outputs, batch, ctx):
    labels = batch.target
    if labels.ndim == 2:
      labels = jnp.argmin(labels, -1)
    return losses.cross_entropy(outputs.logits, labels)


class IntegersOnly(Right):
  def loss(self, outputs, batch, ctx):
    return super().loss(outputs, batch, ctx) + 0.0 * jnp.arange(9)[batch.target]


class SecretlyJoint(Right):
  def loss(self, outputs, batch, ctx):
    mean = jnp.mean(outputs.logits, 0)
    return losses.softened_kl(outputs.logits, mean, temperature=1.0)


class NeverJoint(Right):
  @property
  def joint(self):
    return True


class TrainsTeacher(Right):
  def loss(self, outputs, batch, ctx):
    own = super().loss(outputs, batch, ctx)
    return own + jnp.mean(outputs.teacher.logits[0], -1)


class TakesOnePeer(Right):
  @property
  def min_peers(self):
    return 2


class FailsOnOnePeer(TakesOnePeer):
  def loss(self, outputs, batch, ctx):
    [_, *_] = outputs.logits[1:]
    return super().loss(outputs, batch, ctx)


class ReadsMaps(Right):
  def loss(self, outputs, batch, ctx):
    return super().loss(outputs, batch, ctx) + jnp.mean(outputs.maps[0])


class PredictsByTeacher(Right):
  def __call__(self, outputs, batch, ctx):
    loss = self.loss(outputs, batch, ctx)
    return core.MethodOutput({"ce": loss}, {"all": outputs.teacher.logits[0]})


class PredictsByTarget(Right):
  def __call__(self, outputs, batch, ctx):
    best = losses.kdcl_naive_target(outputs.logits, batch.target)
    return core.MethodOutput(
      {"ce": losses.cross_entropy(best, batch.target)}, {"best": best}
    )


class PredictsBy(Right):
  what: str

  def __call__(self, outputs, batch, ctx):
    logits = outputs.logits[0]
    added = {
      "prior": lambda: jnp.log(jax.nn.one_hot(batch.target, 5).mean(0)),
      "index": lambda: batch.index[:, None],
      "mask": lambda: batch.mask[:, None],
      "ramp-up": lambda: ctx.rampup * outputs.logits[1],
      "noise": lambda: jax.random.normal(ctx.key, (5,)),
      "batch": lambda: logits.mean(0),
    }[self.what]()
    loss = self.loss(outputs, batch, ctx)
    return core.MethodOutput({"ce": loss}, {"all": logits + added})


class CountsTheBatch(Right):
  def __call__(self, outputs, batch, ctx):
    loss, logits = self.loss(outputs, batch, ctx), outputs.logits[0]
    together = logits.reshape(len(batch.index), -1)
    return core.MethodOutput({"ce": loss}, {"all": together})


class NoGradient(Right):
  def loss(self, outputs, batch, ctx):
    return jax.lax.stop_gradient(super().loss(outputs, batch, ctx))


class NamesAnew(Counting):
  def __call__(self, outputs, batch, ctx):
    self.calls[0] += 1
    loss = Right.loss(self, outputs, batch, ctx)
    return core.MethodOutput({f"ce{self.calls[0]}": loss})


class GroupTrainsTeacher(Right):
  def __call__(self, outputs, batch, ctx):
    mean = jnp.mean(outputs.logits, 0)
    teacher = outputs.teacher.logits[0]
    kl = losses.softened_kl(mean, teacher, temperature=1.0)
    ce = losses.cross_entropy(outputs.logits, batch.target)
    return core.MethodOutput({"peer_ce": ce, "kl": kl})


class RemembersItsFirstCall(Right):
  @nn.compact
  def __call__(self, outputs, batch, ctx):
    mean = self.variable("memory", "mean", jnp.zeros, ())
    if ctx.train:
      mean.value = 0.9 * mean.value + 0.1 * jnp.mean(outputs.logits)
    return super().__call__(outputs, batch, ctx)


class DividesByClass(Right):
  def loss(self, outputs, batch, ctx):
    hot = jax.nn.one_hot(batch.target, 5)
    own = super().loss(outputs, batch, ctx)
    return own + jnp.sum(own.mean(0) @ hot / hot.sum(0))


class OfEachExample(Right):
  """Remembers the logits of every example, and computes in float32."""

  collection: str = "seen"

  @property
  def needs(self):
    return core.Needs(per_example=(self.collection,))

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    seen = self.variable("seen", "logits", jnp.zeros, (ctx.num_examples, 5))
    if ctx.train and not self.is_initializing():
      old = seen.value[batch.index]
      mean = (old + outputs.logits.mean(0)) / 2
      seen.value = seen.value.at[batch.index].set(jax.lax.stop_gradient(mean))
    return super().__call__(outputs, batch, ctx)

  def loss(self, outputs, batch, ctx):
    logits = outputs.logits.astype(jnp.float32)
    return losses.cross_entropy(logits, batch.target)


class MixesTypes(Right):
  """What x64 alone refuses: indices of two types."""

  def loss(self, outputs, batch, ctx):
    last = jax.lax.dynamic_slice(outputs.logits, (ctx.step, 0, 0), (1, 8, 5))
    return super().loss(outputs, batch, ctx) + 0 * jnp.mean(last)


class PredictsInTraining(Right):
  def __call__(self, outputs, batch, ctx):
    loss = self.loss(outputs, batch, ctx)
    mean = {"all": outputs.logits.mean(0)} if ctx.train else {}
    return core.MethodOutput({"ce": loss}, mean)


class Rounding(Right):
  @nn.compact
  def __call__(self, outputs, batch, ctx):
    mean = self.variable("memory", "mean", jnp.zeros, (), jnp.float32)
    if not self.is_initializing():
      mean.value = jnp.mean(outputs.logits).astype(jnp.bfloat16)
    return core.MethodOutput({"peer_ce": self.loss(outputs, batch, ctx)})


class Refreshed(Right):
  what: Callable[[], Any] = dict

  @property
  def needs(self):
    return core.Needs(held_out=0.1)

  def refresh(self, logits, labels):
    return self.what()

  @nn.compact
  def __call__(self, outputs, batch, ctx):
    self.variable("weights", "peers", jnp.ones, 4)
    return super().__call__(outputs, batch, ctx)


class OnCpuAlone(Right):
  def loss(self, outputs, batch, ctx):
    square = jax.lax.stop_gradient(jnp.eye(2) * jnp.mean(outputs.logits))
    size = jnp.abs(jnp.linalg.eigvals(square)).sum()
    return super().loss(outputs, batch, ctx) + size.astype(jnp.float32)


class HostState(Right):
  calls = [0]

  def loss(self, outputs, batch, ctx):
    def count(step):
      self.calls[0] += 1
      return np.float32(self.calls[0])

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    factor = jax.pure_callback(count, shape, ctx.step)
    return factor * super().loss(outputs, batch, ctx)


class DependsOnMesh(Right):
  def loss(self, outputs, batch, ctx):
    # What is different in the last bit becomes different in the first.
    noise = jnp.sin(1e14 * jnp.mean(outputs.logits))
    noise = jax.lax.stop_gradient(noise)
    return (1 + noise) * super().loss(outputs, batch, ctx)


class BelowItsRule(Right):
  weight: float = core.positive(-1.0)


class NoSuchTask(Right):
  @property
  def task(self):
    return "segmentation"


class OddNeeds(Right):
  odd: Any = core.Needs()

  @property
  def needs(self):
    return self.odd


class Reported(Right):
  what: str = "compared"

  @property
  def compared(self):
    return "peer_mean" if self.what == "compared" else "deployed"

  @property
  def published_kind(self):
    return "replica" if self.what == "kind" else None


class NoSuchPeer(Right):
  which: str = "leader"

  @property
  def leader(self):
    return 17 if self.which == "leader" else 0

  def members(self, num_peers):
    return (0, num_peers) if self.which == "members" else (0,)

  def turns(self, num_peers):
    return (0, num_peers + 3) if self.which == "turns" else (None,)


class Returns(Right):
  what: Callable[[], Any] = dict

  def __call__(self, outputs, batch, ctx):
    return self.what()


WRONG = [
  ("properties_make_sense", BelowItsRule, "weight=-1.0 must be .* Give the"),
  ("properties_make_sense", NoSuchTask, "segmentation.*there are classific"),
  ("properties_make_sense", Reported, "'peer_mean'; papers report"),
  (
    "properties_make_sense",
    functools.partial(Reported, "kind"),
    "published_kind='replica'; there are",
  ),
  *(
    ("properties_make_sense", functools.partial(OddNeeds, odd), message)
    for odd, message in [
      ("views", "return core.Needs"),
      (core.Needs(kind="branch"), "there are replicas and branches"),
      (core.Needs(trunk_gradient="max"), "it is sum, mean or first"),
      (core.Needs(ema_decay=1.5), r"must be in \[0, 1\)"),
      (core.Needs(held_out=0.1), "has no `refresh`"),
    ]
  ),
  *(
    ("properties_make_sense", functools.partial(NoSuchPeer, which), message)
    for which, message in [
      ("leader", "leader=17; of 1 peers it must be"),
      ("members", r"members \(0, 1\) of 1 peers"),
      ("turns", r"turns \(0, 4\) of 1 peers"),
    ]
  ),
  *(
    ("terms_are_named_and_shaped", functools.partial(Returns, what), "return c")
    for what in (lambda: None, dict, lambda: core.MethodOutput([]))
  ),
  ("terms_are_named_and_shaped", Reduced, "leave the mean to the step"),
  ("terms_are_named_and_shaped", Capital, "use lower case"),
  ("terms_are_named_and_shaped", Silent, "return one loss at least"),
  ("loss_is_finite", Unstable, "take jax.nn.log_softmax"),
  ("loss_is_finite", Coarse, "not finite .* in bfloat16"),
  ("loss_is_finite", DividesByClass, "labels 2 2 3 4 0 0 4 4 of 5 classes; do"),
  ("gradients_reach_the_peers", NoGradient, "trains nothing"),
  (
    "memory_begins_alike",
    functools.partial(OfEachExample, "sene"),
    "per_example='sene' and has no such collection; name one of seen",
  ),
  ("depends_on_arguments_alone", Counting, "no state outside variables"),
  ("depends_on_arguments_alone", NamesAnew, "no state outside variables"),
  *(
    ("random_numbers_change", functools.partial(DrawsTheSame, where), "ctx.key")
    for where in ("here", "in a loop", "in a call")
  ),
  ("soft_labels_are_taken", HardOnly, "use okd_jax.losses"),
  ("soft_labels_are_taken", IntegersOnly, "Take also one-hot"),
  ("targets_are_constant_unless_joint", SecretlyJoint, "stop_gradient"),
  ("targets_are_constant_unless_joint", NeverJoint, "leave `joint` out"),
  ("averages_and_teachers_are_constant", TrainsTeacher, "stop_gradient"),
  (
    "averages_and_teachers_are_constant",
    GroupTrainsTeacher,
    "of 'kl' into",
  ),
  ("too_few_peers_are_refused", TakesOnePeer, "call core.require_peers"),
  ("too_few_peers_are_refused", FailsOnOnePeer, "call core.require_peers"),
  ("missing_trunk_or_maps_are_refused", ReadsMaps, "call core.require_maps"),
  ("evaluation_reads_no_target", PredictsByTeacher, "evaluation has none"),
  ("evaluation_reads_no_target", PredictsByTarget, "from the outputs alone"),
  ("evaluation_reads_no_target", PredictsInTraining, "'all' in training alone"),
  *(
    ("evaluation_reads_no_target", functools.partial(PredictsBy, what), message)
    for what, message in [
      ("prior", "for other targets"),
      ("index", "for other images, indices or masks"),
      ("mask", "for other images, indices or masks"),
    ]
  ),
  *(
    (
      "predictions_are_of_single_examples",
      functools.partial(PredictsBy, what),
      message,
    )
    for what, message in [
      ("ramp-up", "at another step"),
      ("noise", "with another key"),
      ("batch", "where fewer are beside it"),
    ]
  ),
  ("memory_begins_alike", RemembersItsFirstCall, "not self.is_initializing"),
  *(
    ("refresh_fits_the_state", functools.partial(Refreshed, what), message)
    for what, message in [
      (lambda: jnp.ones(4), "return new values of collections"),
      (lambda: {"weight": {"peers": jnp.ones(4)}}, "the method keeps nothing"),
      (lambda: {"weights": {}}, r"nothing.*keeps peers float32\[4\]"),
      (lambda: {"weights": {"peers": jnp.ones(3)}}, r"with peers float32\[3\]"),
    ]
  ),
  ("predictions_are_of_any_batch", CountsTheBatch, "take sizes from x.shape"),
  ("state_stays_as_it_is", Rounding, "cast what is stored"),
  ("lowers_for_accelerators", OnCpuAlone, "no program for TPU and CUDA"),
  ("goes_on_exactly", HostState, "keep everything that a step depends on"),
  ("meshes_agree", DependsOnMesh, "Use whole arrays as they come"),
]
TRAINED = ("goes_on_exactly", "meshes_agree")


@pytest.mark.parametrize(
  ("name", "method", "message"),
  [
    pytest.param(*case, marks=[pytest.mark.long] * (case[0] in TRAINED))
    for case in WRONG
  ],
)
def test_wrong_methods_are_told_what_to_do(name, method, message):
  check = {check.__name__: check for check in testing.CHECKS}[name]
  with pytest.raises(AssertionError, match=message):
    check(method())


@pytest.mark.parametrize("where", ["ctx.key", "the step"])
def test_random_numbers_may_follow_from_any_argument(where):
  check = {c.__name__: c for c in testing.CHECKS}["random_numbers_change"]
  check(DrawsAnew(where))


def test_every_check_has_a_wrong_method():
  assert {name for name, *_ in WRONG} == {c.__name__ for c in testing.CHECKS}


class ReadsItsTeacher(Right):
  def loss(self, outputs, batch, ctx):
    raise KeyError("teacher")


@pytest.mark.parametrize(
  ("method", "message"),
  [
    (
      ReadsItsTeacher,
      "fails where .* KeyError: 'teacher'. The traceback",
    ),
    (nn.Dense(3), "is no method; subclass okd_jax.core.Method"),
  ],
)
def test_errors_of_a_method_are_said_to_be_its_own(method, message):
  with pytest.raises(AssertionError, match=message):
    testing.check_method(method)


@pytest.mark.long
@pytest.mark.parametrize("method", [Right, OfEachExample])
def test_a_class_is_checked_with_its_defaults(method):
  testing.check_method(method)


def test_errors_of_float64_are_said_to_be_so():
  with pytest.raises(
    AssertionError,
    match="soft_labels_are_taken is checked, with jax_enable_x64",
  ):
    testing.check_method(MixesTypes)


@pytest.mark.parametrize("name", methods.names())
def test_no_method_of_ours_computes_in_narrower_floats(name):
  """So that theirs are held to a few last bits of float64."""
  assert not _float64.rounds(methods.make(name))
