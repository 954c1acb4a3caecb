"""The `headrace` command: parses the command line once and starts a room. Holds no logic of its own."""

__version__ = "0.1.0"
