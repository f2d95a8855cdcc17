"""Data files of the image builder: reviewed lists and templates, read with ``importlib.resources``."""
