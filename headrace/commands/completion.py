"""`headrace completion`: what a shell needs to complete our words."""

import argparse

SUMMARY = "Print a script with which a shell completes commands, options and paths."
EXAMPLES = """examples:
  eval "$(headrace completion bash)"                               # this shell; put it in ~/.bashrc for all
  headrace completion bash >/etc/bash_completion.d/headrace        # everybody, as root
  headrace completion zsh >"${fpath[1]}/_headrace"
  headrace completion fish >~/.config/fish/completions/headrace.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="bash|zsh|fish")


def run(arguments: argparse.Namespace) -> int:
    from headrace.completion import script
    from headrace.main import full_parser

    print(script(full_parser(), arguments.shell), end="")
    return 0
