"""One module per subcommand: `SUMMARY`, `EXAMPLES`, `add_arguments(parser)` and `run(arguments) -> exit code`.

Modules import their room inside `run`, so that `--help` stays fast.
"""
