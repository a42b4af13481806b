"""Ports for what tests start, which has to bind them itself and later."""

import random
import socket

# Below those that a system gives to connections, and to whoever asks for any
# port: of these another test may have got one by then.
_NUMBERS = range(10_000, 30_000)


def free():
  """A port that nobody listens on."""
  for port in random.SystemRandom().sample(_NUMBERS, 100):
    with socket.socket() as tried:
      try:
        tried.bind(("localhost", port))
      except OSError:
        continue
      return port
  raise RuntimeError("no port is free")
