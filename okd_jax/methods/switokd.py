"""SwitOKD: switchable online knowledge distillation."""

import jax.numpy as jnp

from okd_jax import core, losses


class Method(core.Method):
  """Teachers and students learn from each other; teachers too far ahead pause.

  Qian et al., "Switchable Online Knowledge Distillation", ECCV 2022. The first
  networks of the group are the teachers, the last one is deployed. On every
  batch the distance between the outputs of a teacher and a student is compared
  with a threshold that depends on the errors of both; a teacher that is better
  and too far ahead does not learn from this student, and a teacher that is too
  far ahead of all students is not updated at all. There is no ramp-up. The
  paper has two networks, two teachers with a student, and a teacher with two
  students; any other number follows the same rule.

  Attributes:
    num_teachers: number of teachers; they are the first networks of the group.
    pause_statistics: whether the batch statistics of a paused teacher stay
      unchanged, too; in the authors' code they are still updated.
  """

  num_teachers: int = core.between(1, 1, 1024)
  pause_statistics: bool = core.flag(False)

  @property
  def needs(self):
    # A shared trunk could not pause with a teacher.
    return core.Needs(kind="replicas")

  @property
  def leader(self):
    return -1

  @property
  def deployed_as(self):
    return "student"

  def settings_compared(self, net, teacher_net):
    nets = [teacher_net] * self.num_teachers + [net]
    return {"peers.net": ",".join(nets), "peers.num_peers": len(nets)}

  @property
  def min_peers(self):
    return self.num_teachers + 1

  @property
  def pauses_memory(self):
    return self.pause_statistics

  def __call__(self, outputs, batch, ctx):
    core.require_peers("switokd", outputs, self.min_peers)
    terms = losses.switokd_group(
      outputs.logits, batch.target, num_teachers=self.num_teachers
    )
    paused = jnp.all(terms.pop("expert_mode"), axis=1)
    num_students = len(outputs.logits) - self.num_teachers
    return core.MethodOutput(
      terms,
      summaries={"paused": paused.astype(jnp.float32)},
      paused=jnp.concatenate([paused, jnp.zeros(num_students, bool)]),
    )
