"""``python -m puma.cli``, for launchers that start a module (torchrun, accelerate)."""

from puma.cli.app import run

run()
