"""HCGNet and hourglasses in PyTorch, see torch_networks.py."""

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.torch_mobile import conv


class BasicConv(nn.Module):
  def __init__(self, *args, **options):
    super().__init__()
    self.norm, self.conv = nn.BatchNorm2d(args[0]), conv(*args, **options)

  def forward(self, x):
    return self.conv(F.relu(self.norm(x)))


class Gated(nn.Module):
  """The second half of HCGNet's modules."""

  def gate_layers(self, c, factor):
    self.conv_3x3 = BasicConv(c, c, 3, groups=c)
    self.conv_5x5 = BasicConv(c, c, 3, groups=c, dilation=2)
    self.global_context3x3 = conv(c, 1, 1, bias=True)
    self.global_context5x5 = conv(c, 1, 1, bias=True)
    inner = 2 * c // factor
    self.fcall = conv(2 * c, inner, 1, bias=True)
    self.bn_attention = nn.BatchNorm1d(inner)
    self.fc3x3 = conv(inner, c, 1, bias=True)
    self.fc5x5 = conv(inner, c, 1, bias=True)
    self.global_forget_context = conv(c, 1, 1, bias=True)
    self.bn_forget = nn.BatchNorm1d(c // factor)
    self.fc1 = conv(c, c // factor, 1, bias=True)
    self.fc2 = conv(c // factor, c, 1, bias=True)

  @staticmethod
  def _context(x, scores):
    weights = scores(x).flatten(2).softmax(2).reshape(-1, 1, *x.shape[2:])
    return (x * weights).sum((2, 3), keepdim=True)

  def gate(self, x):
    kept = self.fc1(self._context(x, self.global_forget_context))
    kept = torch.tanh(self.bn_forget(kept.flatten(1)))[..., None, None]
    kept = torch.sigmoid(self.fc2(kept))
    u = self._context(self.conv_3x3(x), self.global_context3x3)
    v = self._context(self.conv_5x5(x), self.global_context5x5)
    both = self.fcall(torch.cat([u, v], 1)).flatten(1)
    both = torch.tanh(self.bn_attention(both))[..., None, None]
    weights = torch.stack([self.fc3x3(both), self.fc5x5(both)]).softmax(0)
    return x * kept + weights[0] * u + weights[1] * v


class Smg(Gated):
  def __init__(self, given, growth):
    super().__init__()
    self.conv1_1x1 = BasicConv(given, 4 * growth, 1)
    self.conv2_3x3 = BasicConv(4 * growth, growth, 3, groups=4)
    self.gate_layers(growth, 2)

  def forward(self, x):
    return torch.cat([x, self.gate(self.conv2_3x3(self.conv1_1x1(x)))], 1)


class HcgTransition(Gated):
  def __init__(self, given):
    super().__init__()
    width = given // 2
    between = given - (given - width) // 2
    self.conv1_1x1 = BasicConv(given, between, 1)
    self.conv2_3x3 = BasicConv(between, width, 3, 2)
    self.gate_layers(width, 4)

  def forward(self, x):
    return self.gate(self.conv2_3x3(self.conv1_1x1(x)))


class HcgNet(nn.Module):
  def __init__(self, classes, blocks, growths):
    super().__init__()
    given = 2 * growths[0]
    self.features = nn.Sequential()
    self.features.add_module("conv0", conv(3, given, 3))
    for i, (count, growth) in enumerate(zip(blocks, growths, strict=True), 1):
      block = nn.Sequential()
      for j in range(1, count + 1):
        block.add_module(f"SMG{j}", Smg(given, growth))
        given += growth
      self.features.add_module(f"HybridBlock{i}", block)
      if i < len(blocks):
        self.features.add_module(f"Transition{i}", HcgTransition(given))
        given //= 2
    self.features.add_module("norm5", nn.BatchNorm2d(given))
    self.classifier = nn.Linear(given, classes)

  def forward(self, x):
    features = F.relu(self.features(x)).mean((2, 3))
    return features, self.classifier(features)


class Unit(nn.Module):
  def __init__(self, given, planes):
    super().__init__()
    shapes = ((given, planes, 1), (planes, planes, 3), (planes, 2 * planes, 1))
    for i, shape in enumerate(shapes, 1):
      setattr(self, f"bn{i}", nn.BatchNorm2d(shape[0]))
      setattr(self, f"conv{i}", conv(*shape, bias=True))
    if given != 2 * planes:
      self.downsample = nn.Sequential(conv(given, 2 * planes, 1, bias=True))

  def forward(self, x):
    y = x
    for i in (1, 2, 3):
      y = getattr(self, f"conv{i}")(F.relu(getattr(self, f"bn{i}")(y)))
    return y + (self.downsample(x) if hasattr(self, "downsample") else x)


class HourglassModule(nn.Module):
  def __init__(self, planes, depth):
    super().__init__()
    self.hg = nn.ModuleList(
      nn.ModuleList(
        nn.Sequential(Unit(2 * planes, planes)) for _ in range(3 + (i == 0))
      )
      for i in range(depth)
    )

  def forward(self, x, level=None):
    level = level or len(self.hg)
    units = self.hg[level - 1]
    low = units[1](F.max_pool2d(x, 2))
    low = self(low, level - 1) if level > 1 else units[3](low)
    return units[0](x) + F.interpolate(units[2](low), scale_factor=2)


class HourglassNet(nn.Module):
  """One branch of OKDHP's network, without its aggregation unit."""

  def __init__(self, joints, width, depth, stacks):
    super().__init__()
    planes = width // 2
    self.conv1 = nn.Conv2d(3, width // 4, 7, 2, 3)
    self.bn1 = nn.BatchNorm2d(width // 4)
    self.layer1 = nn.Sequential(Unit(width // 4, width // 4))
    self.layer2 = nn.Sequential(Unit(planes, planes))
    self.layer3 = nn.Sequential(Unit(width, planes))
    self.stacks = stacks
    for i in range(stacks):
      output = nn.Sequential(
        conv(width, width, 1, bias=True), nn.BatchNorm2d(width), nn.ReLU()
      )
      own = nn.Sequential(
        HourglassModule(planes, depth),
        nn.Sequential(Unit(width, planes)),
        output,
      )
      setattr(self, f"ind_b_0_s_{i}", own)
      setattr(self, f"score_b_0_s_{i}", conv(width, joints, 1, bias=True))
      if i < stacks - 1:
        setattr(self, f"_fc_b_0_s_{i}", conv(width, width, 1, bias=True))
        setattr(self, f"_score_b_0_s_{i}", conv(joints, width, 1, bias=True))

  def forward(self, x):
    return self.of_root(self.stem(x))

  def stem(self, x):
    x = self.layer1(F.relu(self.bn1(self.conv1(x))))
    return self.layer3(self.layer2(F.max_pool2d(x, 2)))

  def of_root(self, x):
    scores = []
    for i in range(self.stacks):
      y = getattr(self, f"ind_b_0_s_{i}")(x)
      scores.append(getattr(self, f"score_b_0_s_{i}")(y))
      if i < self.stacks - 1:
        x = x + getattr(self, f"_fc_b_0_s_{i}")(y)
        x = x + getattr(self, f"_score_b_0_s_{i}")(scores[-1])
    return y.mean((2, 3)), torch.stack(scores).permute(0, 1, 3, 4, 2)
