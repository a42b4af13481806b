"""DML: deep mutual learning."""

from okd_jax import core, losses
from okd_jax.methods import _heat_maps


class Method(core.Method):
  """Every peer learns from the labels and from the other peers.

  Zhang et al., "Deep Mutual Learning", CVPR 2018. The defaults are those of
  the code of Chen et al., AAAI 2020: the mean of the others' logits is the
  target, gradient flows through it, and there is no ramp-up. The paper has
  `form="pairwise"`, `updates="alternating"`, `temperature=1` and
  `stop_gradient=True`; the last two are the defaults of `losses.dml`, the loss
  of the paper. Heat maps are treated as distributions over pixels, in the scale
  of OKDHP; the outputs of all stacks learn the target, and those of the last
  stacks also learn from each other.

  Attributes:
    temperature: temperature of the distillation.
    kd_weight: weight of the distillation.
    eps: constant added to the softened target probabilities of classes.
    form: "ensemble" learns from the mean of the others' logits, "pairwise"
      from each of the others.
    updates: "simultaneous" updates all peers at once; "alternating" updates one
      peer after another in every step, and each uses the updates before its
      own.
    stop_gradient: whether targets are treated as constants.
  """

  temperature: float = core.positive(3.0)
  kd_weight: float = core.at_least(1.0, 0)
  eps: float = core.between(1e-7, 0, 1)
  form: str = core.one_of("ensemble", "ensemble", "pairwise")
  updates: str = core.one_of("simultaneous", "simultaneous", "alternating")
  stop_gradient: bool = core.flag(False)

  @property
  def tasks(self):
    return (self.task, _heat_maps.TASK)

  @property
  def compared(self):
    # As Chen et al., AAAI 2020.
    return "peers_mean"

  @property
  def needs(self):
    # A shared trunk would belong to no peer's turn.
    alternating = self.updates == "alternating"
    return core.Needs(kind="replicas" if alternating else None)

  @property
  def joint(self):
    return not self.stop_gradient

  @property
  def min_peers(self):
    return 2

  def turns(self, num_peers):
    alternating = self.updates == "alternating"
    return tuple(range(num_peers)) if alternating else (None,)

  def __call__(self, outputs, batch, ctx):
    core.require_peers("dml", outputs, self.min_peers)
    if isinstance(batch.target, dict):
      terms = _heat_maps.supervised("dml", outputs, batch)
      terms["peer_kd"] = self.kd_weight * _heat_maps.mutual(
        outputs.logits,
        batch.target["weight"],
        temperature=self.temperature,
        pairwise=self.form == "pairwise",
        stop_gradient=self.stop_gradient,
      )
      return core.MethodOutput(terms)
    objective = losses.dml if self.form == "pairwise" else losses.dml_ensemble
    return core.MethodOutput(
      objective(
        outputs.logits,
        batch.target,
        temperature=self.temperature,
        kd_weight=self.kd_weight,
        eps=self.eps,
        stop_gradient=self.stop_gradient,
      )
    )
