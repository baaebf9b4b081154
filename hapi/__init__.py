"""hapi runner: a session daemon that keeps AI coding agents alive. Importing the package imports nothing else."""

__version__ = "0.1.0"
