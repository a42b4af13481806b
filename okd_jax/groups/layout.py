"""How the variables of a group are arranged in one tree.

For one stack of networks they are the network's own with a leading peer axis.
Several stacks are under `group_0`, `group_1`, ...; a stem is under `trunk`, and
then the stacks on it are under `tails`. Every collection is arranged like this.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from flax import linen as nn

from okd_jax.core import Array, Variables


@dataclasses.dataclass(frozen=True)
class Stack:
  """Equal networks, each with variables of its own.

  Attributes:
    net: a linen module called as `net(images, train=...)`, or on a stem as
      `net(hidden, train=...)`. It returns `Outputs` without the peer axis,
      `(logits, features)`, or logits.
    count: number of networks.
    whole: the network whose two parts are the stem and `net`, with the
      variables of both; None if there is no such network.
  """

  net: nn.Module
  count: int = 1
  whole: nn.Module | None = None


class OnStem(nn.Module):
  """A whole network from a stem and a tail that were defined separately."""

  stem: nn.Module
  tail: nn.Module

  def __call__(self, images: Array, *, train: bool):
    return self.tail(self.stem(images, train=train), train=train)


def join(stem: Variables | None, stacks: Sequence[Variables]) -> Variables:
  """Puts the variables of all parts into one tree."""
  tails = (
    stacks[0]
    if len(stacks) == 1
    else _by_part({f"group_{i}": stack for i, stack in enumerate(stacks)})
  )
  return tails if stem is None else _by_part({"trunk": stem, "tails": tails})


def separate(
  variables: Variables, num_stacks: int, *, stem: bool
) -> tuple[Variables | None, tuple[Variables, ...]]:
  """The inverse of `join`."""
  shared = None
  if stem:
    shared, variables = _part(variables, "trunk"), _part(variables, "tails")
  if num_stacks == 1:
    return shared, (variables,)
  return shared, tuple(
    _part(variables, f"group_{i}") for i in range(num_stacks)
  )


def whole(
  stem: nn.Module | None, stack: Stack, shared: Variables | None, own: Variables
) -> tuple[nn.Module, Variables]:
  """A network and its variables, from those of the stem and of one tail."""
  if stem is None or shared is None:
    return stack.net, own
  if stack.whole is None:
    return OnStem(stem, stack.net), _by_part({"stem": shared, "tail": own})
  return stack.whole, {
    name: {**shared.get(name, {}), **own.get(name, {})}
    for name in {**shared, **own}
  }


def parts_of_whole(
  stack: Stack, network: Variables, shared: Variables, own: Variables
) -> tuple[Variables, Variables]:
  """The inverse of `whole`: the arrays of `network`, arranged as the parts."""
  if stack.whole is None:
    parts = [
      {name: network.get(name, {}).get(part, {}) for name in like}
      for part, like in (("stem", shared), ("tail", own))
    ]
    return parts[0], parts[1]
  return _names_of(shared, network), _names_of(own, network)


def without_params(variables: Variables) -> Variables:
  """The collections that are not learned."""
  return {name: tree for name, tree in variables.items() if name != "params"}


def _names_of(like: Variables, network: Variables) -> Variables:
  return {
    name: {inner: network[name][inner] for inner in tree}
    for name, tree in like.items()
  }


def _by_part(parts: Mapping[str, Variables]) -> Variables:
  names = {name: None for tree in parts.values() for name in tree}
  return {
    name: {part: tree.get(name, {}) for part, tree in parts.items()}
    for name in names
  }


def _part(variables: Variables, part: str) -> Variables:
  # Files keep no empty collections.
  return {name: tree.get(part, {}) for name, tree in variables.items()}
