"""MCL-OKD and OEM in PyTorch: groups, objectives, and what they remember.

Written from the papers' specifications, not translated from our code, like
benchmarks/torch_reference.py.
"""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.torch_reference import _stage, Group


class MCLOKD(nn.Module):
  """Contrast against banks; the last peer learns from the mean."""

  def __init__(self, group: Group, rows: Tensor, temperature=0.1):
    super().__init__()
    width = group.tails[0].classifier.in_features
    self.group, self.temperature = group, temperature
    self.heads = nn.ModuleDict(
      {
        f"projection_{i}": nn.Linear(width, rows.shape[-1])
        for i in range(len(group.tails))
      }
    )
    self.register_buffer("bank", rows)  # [M, N, d]

  def forward(self, images, labels, index, negatives, count) -> Tensor:
    """The objective; then the banks are those after this step.

    Args:
      images: [B, c, H, W].
      labels: [B].
      index: positions of the images [B].
      negatives: positions of images of other classes [B, K].
      count: N, the number of training images.
    """
    logits, features = self.group(images)
    embeddings = []
    for projection, own in zip(self.heads.values(), features, strict=True):
      projected = projection(own)
      embeddings.append(projected / projected.norm(dim=1, keepdim=True))
    loss = sum(F.cross_entropy(z, labels) for z in logits)
    teacher = logits.mean(0).detach()
    loss = loss + 9 * F.kl_div(
      F.log_softmax(logits[-1] / 3, 1),
      F.softmax(teacher / 3, 1),
      reduction="batchmean",
    )
    columns = torch.cat([index[:, None], negatives], 1)
    noise = negatives.shape[1] / count
    for a, bank in enumerate(self.bank):
      rows = bank[columns]
      for b, embedding in enumerate(embeddings):
        if a == b:
          continue
        raised = torch.exp(
          torch.einsum("bkd,bd->bk", rows, embedding) / self.temperature
        )
        share = raised / (count * raised.mean().detach())
        hit = torch.log(share[:, 0] / (share[:, 0] + noise + 1e-7))
        missed = torch.log(noise / (share[:, 1:] + noise + 1e-7)).sum(1)
        loss = loss - 0.025 * (hit + missed).mean()
    with torch.no_grad():
      for bank, embedding in zip(self.bank, embeddings, strict=True):
        mixed = 0.5 * bank[index] + 0.5 * embedding
        bank[index] = mixed / mixed.norm(dim=1, keepdim=True)
    return loss


class Student(nn.Module):
  """Three stages of basic blocks and a classifier; returns maps, too."""

  def __init__(self, widths: tuple[int, ...], depth: int, num_classes: int):
    super().__init__()
    before = (16, *widths[:-1])
    self.stages = nn.ModuleList(
      _stage(given, width, depth, 1 if i == 0 else 2, False)
      for i, (given, width) in enumerate(zip(before, widths, strict=True))
    )
    self.classifier = nn.Linear(widths[-1], num_classes)

  def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    maps = []
    for stage in self.stages:
      x = stage(x)
      maps.append(x)
    return self.classifier(x.mean((2, 3))), maps


class OEM(nn.Module):
  """Students of shrinking width on one stem, and adapters of their maps."""

  def __init__(
    self, count: int, depth: int, num_classes: int, pseudo_teacher_alone: bool
  ):
    super().__init__()
    self.alone = pseudo_teacher_alone
    stem = nn.Sequential(
      nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )
    self.trunks = nn.ModuleList([stem])
    widths = [
      tuple(w * (count - j) // count for w in (16, 32, 64))
      for j in range(count)
    ]
    self.tails = nn.ModuleList(
      Student(each, depth, num_classes) for each in widths
    )
    self.heads = nn.ModuleDict(
      {
        f"adapter_{block}_{j}": nn.Linear(widths[j][block], widths[0][block])
        for block in range(3)
        for j in range(1, count)
      }
    )

  def forward(self, images: Tensor, labels: Tensor) -> Tensor:
    """The objective."""
    base = self.trunks[0](images)
    results = [
      student(base.detach() if self.alone and j else base)
      for j, student in enumerate(self.tails)
    ]
    logits = [result[0] for result in results]
    maps = [result[1] for result in results]
    ensemble = torch.stack(logits).mean(0).detach()
    normal = sum(F.cross_entropy(z, labels) for z in logits)
    kd = 4 * sum(
      F.kl_div(
        F.log_softmax(z / 2, 1),
        F.softmax(ensemble / 2, 1),
        reduction="batchmean",
      )
      for z in logits
    )
    between = sum(
      F.mse_loss(
        self.heads[f"adapter_{block}_{j}"](maps[j][block].movedim(1, -1)),
        maps[0][block].detach().movedim(1, -1),
      )
      for block in range(3)
      for j in range(1, len(maps))
    )
    return 0.7 * normal + 0.15 * between + 0.15 * kd


def optimizer(modules: nn.Module, learning_rate: float) -> torch.optim.SGD:
  """SGD with Nesterov momentum, and weight decay on everything."""
  return torch.optim.SGD(
    modules.parameters(),
    lr=learning_rate,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
  )
