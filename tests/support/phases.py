"""Where a process that has imported `holding` is to wait."""


def ask(path, phase):
  """Has the next process wait in a phase, as long as the file is there.

  Args:
    path: what the process has as `$HOLDS`.
    phase: "compiling", "evaluating", or "training" from a step on, as in
      "training 3".
  """
  met(path).unlink(missing_ok=True)
  path.write_text(phase)


def met(path):
  """What is there as soon as one waits."""
  return path.with_name(path.name + ".met")
