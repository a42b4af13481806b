"""Writes tests/vectors/networks.json: small networks of each family in PyTorch.

    python benchmarks/torch_networks.py

The modules declare their layers in the order and under the names of the public
code that people have weights of: CRD and mdistiller (wide ResNets, MobileNetV2,
ShuffleNets, VGG), HCGNet, and OKDHP (hourglasses). They are written from the
papers, and as small as the rules of a family allow.
"""

import json
from pathlib import Path
import sys

import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import fingerprints  # noqa: E402


def conv(given, width, size, stride=1, *, bias=False, groups=1, dilation=1):
  padding = size // 2 * dilation
  return nn.Conv2d(
    given, width, size, stride, padding, dilation, groups, bias=bias
  )


def shuffle(x, groups):
  b, c, h, w = x.shape
  x = x.view(b, groups, c // groups, h, w).transpose(1, 2)
  return x.reshape(b, c, h, w)


class WideBlock(nn.Module):
  def __init__(self, given, width, stride):
    super().__init__()
    self.bn1, self.conv1 = nn.BatchNorm2d(given), conv(given, width, 3, stride)
    self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
    if given != width:
      self.convShortcut = conv(given, width, 1, stride)

  def forward(self, x):
    active = F.relu(self.bn1(x))
    y = self.conv2(F.relu(self.bn2(self.conv1(active))))
    return y + (self.convShortcut(active) if x.shape != y.shape else x)


class WideResNet(nn.Module):
  def __init__(self, classes, blocks, widen):
    super().__init__()
    self.conv1 = conv(3, 16, 3)
    given = 16
    for i in (1, 2, 3):
      width = 2 ** (3 + i) * widen
      layer = nn.ModuleDict({"layer": nn.Sequential()})
      for j in range(blocks):
        stride = 2 if i > 1 and j == 0 else 1
        layer["layer"].append(WideBlock(given, width, stride))
        given = width
      setattr(self, f"block{i}", layer)
    self.bn1, self.fc = nn.BatchNorm2d(given), nn.Linear(given, classes)

  def forward(self, x):
    x = self.conv1(x)
    for block in (self.block1, self.block2, self.block3):
      x = block["layer"](x)
    features = F.relu(self.bn1(x)).mean((2, 3))
    return features, self.fc(features)


def conv_bn_act(given, width, size, stride, act, groups=1):
  return (
    conv(given, width, size, stride, groups=groups),
    nn.BatchNorm2d(width),
    act(),
  )


class InvertedResidual(nn.Module):
  """As CRD has it, or with `nested` as torchvision has it."""

  def __init__(self, given, width, stride, expansion, nested):
    super().__init__()
    act = nn.ReLU6 if nested else nn.ReLU
    inner = given * expansion
    parts = [conv_bn_act(inner, inner, 3, stride, act, inner)]
    if expansion > 1 or not nested:
      parts.insert(0, conv_bn_act(given, inner, 1, 1, act))
    last = (conv(inner, width, 1), nn.BatchNorm2d(width))
    self.conv = nn.Sequential()
    for part in parts:
      self.conv.extend([nn.Sequential(*part)] if nested else part)
    self.conv.extend(last)

  def forward(self, x):
    y = self.conv(x)
    return x + y if x.shape == y.shape else y


class CrdMobileNet(nn.Module):
  def __init__(self, classes, widths, groups, head):
    super().__init__()
    given = widths[0]
    self.conv1 = nn.Sequential(*conv_bn_act(3, given, 3, 2, nn.ReLU))
    self.blocks = nn.ModuleList()
    for i, (width, count, stride) in enumerate(groups):
      self.blocks.append(nn.Sequential())
      for j in range(count):
        self.blocks[-1].append(
          InvertedResidual(
            given, width, 1 if j else stride, 6 if i else 1, False
          )
        )
        given = width
    self.conv2 = nn.Sequential(*conv_bn_act(given, head, 1, 1, nn.ReLU))
    self.classifier = nn.Sequential(nn.Linear(head, classes))

  def forward(self, x):
    x = self.conv1(x)
    for block in self.blocks:
      x = block(x)
    features = self.conv2(x).mean((2, 3))
    return features, self.classifier(features)


class TorchvisionMobileNet(nn.Module):
  def __init__(self, classes, widths, groups, head):
    super().__init__()
    given = widths[0]
    self.features = nn.Sequential(
      nn.Sequential(*conv_bn_act(3, given, 3, 2, nn.ReLU6))
    )
    for i, (width, count, stride) in enumerate(groups):
      for j in range(count):
        self.features.append(
          InvertedResidual(
            given, width, 1 if j else stride, 6 if i else 1, True
          )
        )
        given = width
    self.features.append(
      nn.Sequential(*conv_bn_act(given, head, 1, 1, nn.ReLU6))
    )
    self.classifier = nn.Sequential(nn.Dropout(0), nn.Linear(head, classes))

  def forward(self, x):
    features = self.features(x).mean((2, 3))
    return features, self.classifier(features)


class ShuffleBlockV1(nn.Module):
  def __init__(self, given, width, stride, groups):
    super().__init__()
    inner = width // 4
    self.first = 1 if given == 24 else groups
    self.conv1 = conv(given, inner, 1, groups=self.first)
    self.bn1 = nn.BatchNorm2d(inner)
    self.conv2 = conv(inner, inner, 3, stride, groups=inner)
    self.bn2 = nn.BatchNorm2d(inner)
    self.conv3 = conv(inner, width, 1, groups=groups)
    self.bn3 = nn.BatchNorm2d(width)
    self.stride = stride

  def forward(self, x):
    y = shuffle(F.relu(self.bn1(self.conv1(x))), self.first)
    y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
    if self.stride == 1:
      return F.relu(x + y)
    return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))


class ShuffleBlockV2(nn.Module):
  def __init__(self, given, width, stride):
    super().__init__()
    half = width // 2
    self.stride = stride
    shapes = [(half, half, 1), (half, half, 3), (half, half, 1)]
    if stride == 2:
      shapes[0] = (given, half, 1)
      shapes = [(given, given, 3), (given, half, 1), *shapes]
    for i, (a, b, size) in enumerate(shapes, 1):
      depthwise = size == 3
      setattr(
        self,
        f"conv{i}",
        conv(a, b, size, stride if depthwise else 1, groups=a**depthwise),
      )
      setattr(self, f"bn{i}", nn.BatchNorm2d(b))

  def _run(self, x, *numbers):
    for i in numbers:
      layer = getattr(self, f"conv{i}")
      x = getattr(self, f"bn{i}")(layer(x))
      x = F.relu(x) if layer.kernel_size == (1, 1) else x
    return x

  def forward(self, x):
    if self.stride == 2:
      y = self._run(x, 1, 2), self._run(x, 3, 4, 5)
    else:
      kept, y = x.chunk(2, 1)
      y = kept, self._run(y, 1, 2, 3)
    return shuffle(torch.cat(y, 1), 2)


class ShuffleNet(nn.Module):
  def __init__(self, classes, widths, blocks, stem, head, block):
    super().__init__()
    self.conv1, self.bn1 = conv(3, 24, stem), nn.BatchNorm2d(24)
    given = 24
    for i, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
      layer = nn.Sequential()
      for j in range(count):
        layer.append(block(given, width, 1 if j else 2))
        given = width
      setattr(self, f"layer{i}", layer)
    if head:
      self.conv2, self.bn2 = conv(given, head, 1), nn.BatchNorm2d(head)
    self.stages, self.head = len(widths), head
    self.linear = nn.Linear(head or given, classes)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1(x)))
    for i in range(self.stages):
      x = getattr(self, f"layer{i + 1}")(x)
    if self.head:
      x = F.relu(self.bn2(self.conv2(x)))
    features = x.mean((2, 3))
    return features, self.linear(features)


def shuffle_block_v1(groups):
  def block(given, width, stride):
    shortcut = given if stride == 2 else 0
    return ShuffleBlockV1(given, width - shortcut, stride, groups)

  return block


class Vgg(nn.Module):
  def __init__(self, classes, widths, pools):
    super().__init__()
    given = 3
    for i, group in enumerate(widths):
      block = nn.Sequential()
      for width in group:
        block.append(conv(given, width, 3, bias=True))
        block.append(nn.BatchNorm2d(width))
        block.append(nn.ReLU())
        given = width
      setattr(self, f"block{i}", block)
    self.pools, self.classifier = pools, nn.Linear(given, classes)

  def forward(self, x):
    for i in range(5):
      x = getattr(self, f"block{i}")(x)
      x = F.max_pool2d(x, 2) if i < self.pools else x
    features = x.mean((2, 3))
    return features, self.classifier(features)


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
    x = self.layer1(F.relu(self.bn1(self.conv1(x))))
    x = self.layer3(self.layer2(F.max_pool2d(x, 2)))
    scores = []
    for i in range(self.stacks):
      y = getattr(self, f"ind_b_0_s_{i}")(x)
      scores.append(getattr(self, f"score_b_0_s_{i}")(y))
      if i < self.stacks - 1:
        x = x + getattr(self, f"_fc_b_0_s_{i}")(y)
        x = x + getattr(self, f"_score_b_0_s_{i}")(scores[-1])
    return y.mean((2, 3)), torch.stack(scores).permute(0, 1, 3, 4, 2)


# Each with the side of its images.
NETWORKS = {
  "wide_resnet": (WideResNet(5, 1, 2), 8),
  "mobilenet_crd": (
    CrdMobileNet(5, (8,), ((4, 1, 1), (6, 2, 1), (8, 1, 2)), 1280),
    16,
  ),
  "mobilenet_torchvision": (
    TorchvisionMobileNet(5, (16,), ((8, 1, 1), (16, 2, 2)), 1280),
    16,
  ),
  "shufflenet_v1": (
    ShuffleNet(5, (36, 48), (2, 1), 1, 0, shuffle_block_v1(3)),
    16,
  ),
  "shufflenet_v2": (
    ShuffleNet(5, (12, 16), (2, 1), 3, 1024, ShuffleBlockV2),
    16,
  ),
  "vgg": (Vgg(5, ((4, 4), (4,), (8,), (8,), (8,)), 3), 16),
  "hcgnet": (HcgNet(5, (1, 1), (4, 4)), 8),
  "hourglass": (HourglassNet(3, 16, 2, 2), 32),
}
_KINDS = {nn.Conv2d: "conv", nn.Linear: "linear"}


def layers_of(net):
  """[index, name, kind, shape, bias] of every layer, as declared."""
  found = []
  for name, module in net.named_modules():
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
      found.append([len(found), name, "bn", list(module.weight.shape), True])
    elif type(module) in _KINDS:
      shape = list(module.weight.shape)
      bias = module.bias is not None
      found.append([len(found), name, _KINDS[type(module)], shape, bias])
  return found


def case(net, size):
  """Layers, some features and the outputs of a training pass in float64."""
  layers = layers_of(net)
  state = {
    name: torch.from_numpy(value)
    for name, value in fingerprints.state_dict(layers).items()
  }
  net.double().load_state_dict(state)
  assert list(net.state_dict()) == list(state)
  images = torch.from_numpy(fingerprints.images(4, size)).permute(0, 3, 1, 2)
  with torch.no_grad():
    features, outputs = net.train()(images)
  return {
    "layers": layers,
    "size": size,
    "features": features[:, :16].tolist(),
    "outputs": outputs.tolist(),
  }


def main():
  cases = {name: case(*made) for name, made in NETWORKS.items()}
  path = ROOT / "tests" / "vectors" / "networks.json"
  path.write_text(json.dumps(cases))


if __name__ == "__main__":
  main()
