"""OKDHP in PyTorch: hourglasses, their weighted mean, and the objective.

Written from the specification of the published system, not translated from our
code, like benchmarks/torch_reference.py.
"""

import torch
from torch import nn, Tensor
from torch.nn import functional as F

from benchmarks.torch_gated import HourglassNet


class Aggregation(nn.Module):
  """Weights of networks for every image and joint."""

  def __init__(self, width: int, count: int, joints: int):
    super().__init__()
    self.convs = nn.ModuleDict(
      {
        f"conv{size}": nn.Conv2d(width, width, size, padding=size // 2)
        for size in (3, 5, 7)
      }
    )
    self.norms = nn.ModuleDict(
      {f"{name}_bn": nn.BatchNorm2d(width) for name in self.convs}
    )
    self.hidden = nn.Linear(width, width // 4)
    self.branches = nn.ModuleDict(
      {f"branch{i}": nn.Linear(width // 4, joints) for i in range(count)}
    )

  def forward(self, root: Tensor) -> Tensor:
    """[B, T, J] from [B, F, h, w]."""
    views = [
      F.relu(self.norms[f"{name}_bn"](conv(root)))
      for name, conv in self.convs.items()
    ]
    hidden = self.hidden(sum(views).mean((2, 3)))
    each = [branch(hidden) for branch in self.branches.values()]
    return torch.stack(each, 1).softmax(1)


class OKDHP(nn.Module):
  """Whole networks that share nothing, and what they learn from each other."""

  def __init__(
    self, count: int, joints: int, width: int, depth: int, stacks: int
  ):
    super().__init__()
    self.nets = nn.ModuleList(
      HourglassNet(joints, width, depth, stacks) for _ in range(count)
    )
    self.aggregation = Aggregation(width, count, joints)

  def forward(
    self,
    images: Tensor,
    target: Tensor,
    weight: Tensor,
    kd_weight: float,
    divide_by_pixels: bool,
  ) -> Tensor:
    """The objective.

    Args:
      images: [B, 3, H, W].
      target: [B, h, w, J].
      weight: [B, J].
      kd_weight: with its ramp-up.
      divide_by_pixels: as the published code.
    """
    roots = [net.stem(images) for net in self.nets]
    outputs = [
      net.of_root(root)[1] for net, root in zip(self.nets, roots, strict=True)
    ]
    last = torch.stack([maps[-1] for maps in outputs], 1)
    shares = self.aggregation(roots[0])
    ensemble = torch.einsum("btj,btpqj->bpqj", shares, last)
    taught = _over_pixels(ensemble.detach(), weight)
    loss = _mse(ensemble, target, weight)
    for maps in outputs:
      for heat in maps:
        guess = _over_pixels(heat, weight)
        apart = (taught.exp() * (taught - guess)).sum() / len(images)
        if divide_by_pixels:
          apart = apart / taught.shape[1]
        loss = loss + _mse(heat, target, weight) + kd_weight * apart
    return loss


def _mse(maps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
  gap = weight[:, None, None] * (maps - target)
  return 0.5 * gap.square().mean()


def _over_pixels(maps: Tensor, weight: Tensor) -> Tensor:
  """Log probabilities [B, pixels, J]."""
  return F.log_softmax((weight[:, None, None] * maps).flatten(1, 2), 1)
