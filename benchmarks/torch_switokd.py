"""The training step of SwitOKD in PyTorch, with an optimiser a network.

Written from the specification of the paper (Qian et al., ECCV 2022), as
torch_reference.py is: what our step is compared with in numbers.
"""

from collections.abc import Sequence
import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.torch_reference import Tail, Trunk


class Trainer:
  """Networks that learn from each other, the teachers first.

  Args:
    names: of the networks, see `torch_reference.NETWORKS`.
    num_teachers: how many of them are teachers.
    num_classes: C.
    channels: of the images.
    keep_statistics: whether a paused teacher keeps its batch statistics.
  """

  def __init__(
    self,
    names: Sequence[str],
    num_teachers: int,
    num_classes: int,
    channels: int = 3,
    keep_statistics: bool = False,
  ):
    self.trunks = nn.ModuleList(Trunk(name, channels) for name in names)
    self.tails = nn.ModuleList(Tail(name, num_classes) for name in names)
    self.modules = nn.ModuleList([self.trunks, self.tails])
    self.num_teachers = num_teachers
    self.keep_statistics = keep_statistics
    self.optimizers: list[torch.optim.Optimizer] = []

  def start(self, learning_rate: float) -> None:
    """Makes the optimisers, for the parameters as they are now."""
    for trunk, tail in zip(self.trunks, self.tails, strict=True):
      self.optimizers.append(
        torch.optim.SGD(
          [*trunk.parameters(), *tail.parameters()],
          lr=learning_rate,
          momentum=0.9,
          weight_decay=5e-4,
        )
      )

  def step(self, images: Tensor, labels: Tensor) -> tuple[float, list[bool]]:
    """Makes one update.

    Returns:
      The sum of the losses that were lowered, and whether each teacher paused.
    """
    statistics = [
      {name: value.clone() for name, value in self._buffers(i).items()}
      for i in range(self.num_teachers)
    ]
    logits = [
      tail(trunk(images))[0]
      for trunk, tail in zip(self.trunks, self.tails, strict=True)
    ]
    losses = self._losses(logits, labels)
    for optimizer in self.optimizers:
      optimizer.zero_grad(set_to_none=True)
    total: Tensor = sum(loss for loss in losses if loss is not None)
    total.backward()
    for optimizer, loss in zip(self.optimizers, losses, strict=True):
      if loss is not None:
        optimizer.step()
    paused = [loss is None for loss in losses[: self.num_teachers]]
    for i, teacher_paused in enumerate(paused):
      if teacher_paused and self.keep_statistics:
        for name, value in self._buffers(i).items():
          value.copy_(statistics[i][name])
    return float(total.detach()), paused

  def _losses(self, logits, labels) -> list[Tensor | None]:
    """Of every network; None for a paused teacher."""
    count, teachers = len(logits), range(self.num_teachers)
    losses: list[Tensor | None] = []
    for i in range(count):
      if i not in teachers:
        from_others = [
          _kl(logits[j], logits[i]) for j in range(count) if j != i
        ]
        losses.append(F.cross_entropy(logits[i], labels) + sum(from_others))
        continue
      students = [
        s
        for s in range(self.num_teachers, count)
        if not _expert_mode(logits[i], logits[s], labels)
      ]
      if not students:
        losses.append(None)
        continue
      sources = [j for j in teachers if j != i] + students
      from_others = [_kl(logits[j], logits[i]) for j in sources]
      losses.append(F.cross_entropy(logits[i], labels) + sum(from_others))
    return losses

  def _buffers(self, i: int) -> dict[str, Tensor]:
    both = nn.ModuleDict({"trunk": self.trunks[i], "tail": self.tails[i]})
    return dict(both.named_buffers())


@torch.no_grad()
def _expert_mode(teacher: Tensor, student: Tensor, labels: Tensor) -> bool:
  p_t, p_s = teacher.softmax(-1), student.softmax(-1)
  y = F.one_hot(labels, p_t.shape[-1])
  d_t = float((p_t - y).abs().sum(-1).mean())
  d_s = float((p_s - y).abs().sum(-1).mean())
  gap = float((p_s - p_t).abs().sum(-1).mean())
  delta = d_s - math.exp(-d_t / (d_t + d_s)) * d_t
  return gap > delta and d_t < d_s


def _kl(target: Tensor, logits: Tensor) -> Tensor:
  """KL(target || logits), the target constant."""
  return F.kl_div(
    logits.log_softmax(-1),
    target.detach().log_softmax(-1),
    reduction="batchmean",
    log_target=True,
  )
