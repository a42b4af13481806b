"""What a process of `multiprocessing` says, in a file."""

import os


def run(path, function, *args):
  """Calls a function whose output, errors included, goes into a file."""
  with open(path, "ab", buffering=0) as file:
    for number in (1, 2):
      os.dup2(file.fileno(), number)
  function(*args)
