"""The training step of the published methods in PyTorch.

Written from the papers' specifications, not translated from our code: the
thing that our step is compared with, in speed and in numbers. Conventions are
those of the code published with OKDDip (Chen et al., AAAI 2020).
"""

from collections.abc import Iterable
import copy
import math

import torch
from torch import nn, Tensor
from torch.nn import functional as F

# Blocks of each stage, and whether blocks are bottlenecks.
NETWORKS = {
  "resnet8": ((1, 1, 1), False),
  "resnet20": ((3, 3, 3), False),
  "resnet32": ((5, 5, 5), False),
  "resnet110_basic": ((18, 18, 18), False),
  "resnet110": ((12, 12, 12), True),
}
_TEMPERATURE = 3.0
_EPS = 1e-7


class Block(nn.Module):
  """Residual block with a projection shortcut where the shape changes."""

  def __init__(self, before: int, width: int, stride: int, bottleneck: bool):
    super().__init__()
    if bottleneck:
      after = 4 * width
      shapes = ((before, width, 1), (width, width, 3), (width, after, 1))
      strides = (1, stride, 1)
    else:
      after = width
      shapes = ((before, width, 3), (width, width, 3))
      strides = (stride, 1)
    self.convs = nn.ModuleList(
      nn.Conv2d(cin, cout, size, s, size // 2, bias=False)
      for (cin, cout, size), s in zip(shapes, strides, strict=True)
    )
    self.norms = nn.ModuleList(nn.BatchNorm2d(cout) for _, cout, _ in shapes)
    self.shortcut = nn.Identity()
    if stride != 1 or before != after:
      self.shortcut = nn.Sequential(
        nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
      )

  def forward(self, x: Tensor) -> Tensor:
    y = x
    last = len(self.convs) - 1
    for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
      y = norm(conv(y))
      y = y if i == last else F.relu(y)
    return F.relu(y + self.shortcut(x))


class Trunk(nn.Module):
  """The stem and the first two stages."""

  def __init__(self, name: str, channels: int):
    super().__init__()
    blocks, bottleneck = NETWORKS[name]
    self.stem = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
    self.stem_norm = nn.BatchNorm2d(16)
    factor = 4 if bottleneck else 1
    self.stages = nn.Sequential(
      _stage(16, 16, blocks[0], 1, bottleneck),
      _stage(16 * factor, 32, blocks[1], 2, bottleneck),
    )

  def forward(self, x: Tensor) -> Tensor:
    return self.stages(F.relu(self.stem_norm(self.stem(x))))


class Tail(nn.Module):
  """The last stage and the classifier; returns logits and features."""

  def __init__(self, name: str, num_classes: int):
    super().__init__()
    blocks, bottleneck = NETWORKS[name]
    factor = 4 if bottleneck else 1
    self.stage = _stage(32 * factor, 64, blocks[2], 2, bottleneck)
    self.classifier = nn.Linear(64 * factor, num_classes)

  def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
    features = self.stage(x).mean((2, 3))
    return self.classifier(features), features


def _stage(before, width, count, stride, bottleneck) -> nn.Sequential:
  after = 4 * width if bottleneck else width
  return nn.Sequential(
    *(
      Block(
        before if i == 0 else after, width, stride if i == 0 else 1, bottleneck
      )
      for i in range(count)
    )
  )


class Group(nn.Module):
  """Peers: whole networks, or tails on one shared trunk.

  `forward` takes images [B, c, H, W], or one view a peer [P, B, c, H, W], and
  returns logits [P, B, C] and features [P, B, D].
  """

  def __init__(
    self, name: str, kind: str, num_peers: int, num_classes: int, channels: int
  ):
    super().__init__()
    self.trunks = nn.ModuleList(
      Trunk(name, channels)
      for _ in range(1 if kind == "branches" else num_peers)
    )
    self.tails = nn.ModuleList(
      Tail(name, num_classes) for _ in range(num_peers)
    )

  def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
    count = len(self.tails)
    if len(self.trunks) == count:
      views = images if images.ndim == 5 else [images] * count
      hidden = [t(x) for t, x in zip(self.trunks, views, strict=True)]
    elif images.ndim == 5:
      hidden = [self.trunks[0](x) for x in images]
    else:
      hidden = [self.trunks[0](images)] * count
    outputs = [tail(x) for tail, x in zip(self.tails, hidden, strict=True)]
    logits, features = zip(*outputs, strict=True)
    return torch.stack(logits), torch.stack(features)


class Independent(nn.Module):
  """Every peer learns from the labels alone."""

  def __init__(self, width: int, num_peers: int, num_classes: int):
    super().__init__()
    del width, num_peers, num_classes

  def forward(self, logits, features, averaged, labels, weight) -> Tensor:
    del features, averaged, weight
    return _summed_cross_entropy(logits, labels)


class OKDDip(nn.Module):
  """Attention among the auxiliary peers; the last peer is the leader."""

  def __init__(self, width: int, num_peers: int, num_classes: int):
    super().__init__()
    del num_peers, num_classes
    self.query = nn.Linear(width, max(1, width // 8), bias=False)
    self.key = nn.Linear(width, max(1, width // 8), bias=False)

  def forward(self, logits, features, averaged, labels, weight) -> Tensor:
    del averaged
    peers, leader = logits[:-1], logits[-1]
    queries, keys = self.query(features[:-1]), self.key(features[:-1])
    energy = torch.einsum("abe,fbe->baf", queries, keys)
    targets = torch.einsum("baf,fbc->abc", energy.softmax(-1), peers)
    kd = _kd(leader, peers.mean(0)) + sum(map(_kd, peers, targets))
    return _summed_cross_entropy(logits, labels) + weight * kd


class DML(nn.Module):
  """Every peer learns from the mean of the others' logits; no ramp-up."""

  def __init__(self, width: int, num_peers: int, num_classes: int):
    super().__init__()
    del width, num_peers, num_classes

  def forward(self, logits, features, averaged, labels, weight) -> Tensor:
    del features, averaged, weight
    others = (logits.sum(0) - logits) / (len(logits) - 1)
    kd = sum(map(_kd, logits, others))
    return _summed_cross_entropy(logits, labels) + kd


class PCL(nn.Module):
  """An ensemble classifier and the averages of the other peers teach.

  Wu and Gong, AAAI 2021, equations 1 and 2.
  """

  def __init__(self, width: int, num_peers: int, num_classes: int):
    super().__init__()
    self.ensemble = nn.Linear(num_peers * width, num_classes)

  def forward(self, logits, features, averaged, labels, weight) -> Tensor:
    count = len(logits)
    ensemble = self.ensemble(torch.cat(tuple(features), -1))
    kd = sum(_kd(z, ensemble.detach(), eps=0.0) for z in logits)
    for j in range(count):
      for other in range(count):
        if other != j:
          kd += _kd(logits[j], averaged[other], eps=0.0) / (count - 1)
    labelled = _summed_cross_entropy(logits, labels)
    return labelled + F.cross_entropy(ensemble, labels) + weight * kd


METHODS = {
  "independent": Independent,
  "okddip": OKDDip,
  "dml": DML,
  "pcl": PCL,
}


class Trainer:
  """A group, a method and their optimiser: one update a call.

  SGD with Nesterov momentum 0.9, weight decay 5e-4 on everything. For PCL the
  averages of group and method are kept, with their own batch statistics.
  """

  def __init__(
    self,
    group: Group,
    method: nn.Module,
    learning_rate: float = 0.1,
    ema_decay: float | None = None,
  ):
    self.group = group
    self.method = method
    self.modules = nn.ModuleList([group, method])
    self.averaged = None if ema_decay is None else copy.deepcopy(self.modules)
    self.optimizer = torch.optim.SGD(
      self.modules.parameters(),
      lr=learning_rate,
      momentum=0.9,
      nesterov=True,
      weight_decay=5e-4,
    )
    self.ema_decay = ema_decay
    self.num_updates = 0

  def to(self, device: torch.device, layout: torch.memory_format) -> None:
    """Moves everything to a device, kernels into a layout."""
    for modules in (self.modules, self.averaged):
      if modules is not None:
        modules.to(device=device, memory_format=layout)

  def loss(self, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """The objective; `weight` is the ramp-up's."""
    averaged = None
    if self.averaged is not None:
      with torch.no_grad():
        averaged, _ = self.averaged[0](images)
    logits, features = self.group(images)
    return self.method(logits, features, averaged, labels, weight)

  def step(self, images: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Makes one update; returns the objective before it."""
    self.optimizer.zero_grad(set_to_none=True)
    loss = self.loss(images, labels, weight)
    loss.backward()
    self.optimizer.step()
    self.num_updates += 1
    if self.averaged is not None:
      assert self.ema_decay is not None
      phi = min(1 - 1 / self.num_updates, self.ema_decay)
      _average(self.averaged.parameters(), self.modules.parameters(), phi)
    return loss.detach()


def make(
  method: str, net: str, kind: str, num_peers: int, num_classes: int, channels=3
) -> Trainer:
  """Builds group, method and optimiser as in the published recipes."""
  group = Group(net, kind, num_peers, num_classes, channels)
  width = group.tails[0].classifier.in_features
  head = METHODS[method](width, num_peers, num_classes)
  return Trainer(group, head, ema_decay=0.999 if method == "pcl" else None)


def augment(images: Tensor, mean: Tensor, std: Tensor, pad: int = 4) -> Tensor:
  """Zero padding, random crop, random flip, normalisation, on the device.

  Args:
    images: uint8 [B, c, H, W].
    mean: of the channels of images scaled to [0, 1], [c, 1, 1].
    std: likewise.
    pad: pixels on every side.
  """
  size, _, height, width = images.shape
  padded = F.pad(images, (pad, pad, pad, pad))
  device = images.device
  offsets = torch.randint(2 * pad + 1, (2, size, 1), device=device)
  rows = offsets[0] + torch.arange(height, device=device)
  columns = offsets[1] + torch.arange(width, device=device)
  flip = torch.rand(size, 1, device=device) < 0.5
  columns = torch.where(flip, columns.flip(1), columns)
  examples = torch.arange(size, device=device)[:, None, None]
  crops = padded.permute(0, 2, 3, 1)[
    examples, rows[:, :, None], columns[:, None, :]
  ]
  return (crops.permute(0, 3, 1, 2) / 255 - mean) / std


def rampup(epoch: float, length: float = 80.0) -> float:
  """The Gaussian ramp-up of the distillation weight."""
  return math.exp(-5 * (1 - min(epoch, length) / length) ** 2)


def _summed_cross_entropy(logits, labels) -> Tensor:
  return sum(F.cross_entropy(z, labels) for z in logits)


def _kd(student, teacher, eps=_EPS) -> Tensor:
  """T^2 KL(teacher || student), eps added to the softened targets."""
  target = (teacher / _TEMPERATURE).softmax(-1) + eps
  log_probs = (student / _TEMPERATURE).log_softmax(-1)
  kl = (target * (target.log() - log_probs)).sum(-1)
  return _TEMPERATURE**2 * kl.mean()


@torch.no_grad()
def _average(
  means: Iterable[Tensor], values: Iterable[Tensor], phi: float
) -> None:
  means, values = list(means), [value.detach() for value in values]
  torch._foreach_mul_(means, phi)
  torch._foreach_add_(means, values, alpha=1 - phi)
