"""The commands, one module each. A module has ``register(app)``, which adds its commands to the typer application, and
imports everything heavy inside the functions, so that ``puma --help`` stays quick."""
