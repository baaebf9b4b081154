"""Terminals: the screen that a program draws, and the protocol by which people look at it."""
