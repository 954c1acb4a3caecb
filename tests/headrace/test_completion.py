"""Completion, as the shells run it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from headrace.completion import script
from headrace.main import COMMANDS, full_parser

_COMPLETE = """
COMP_WORDS=(headrace {words}); COMP_CWORD={at}
COMPREPLY=()
spec=$(complete -p headrace); function=${{spec#*-F }}; function=${{function%% *}}
"$function" headrace "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(*words: str, folder: str = "/") -> set[str]:
    """What bash offers for the last of *words*."""
    text = script(full_parser(), "bash") + _COMPLETE.format(
        words=" ".join(f"'{word}'" for word in words), at=len(words)
    )
    result = subprocess.run(["bash", "-c", text], capture_output=True, text=True, cwd=folder, timeout=20, check=True)
    return set(result.stdout.split())


def test_bash_completes_commands() -> None:
    assert completed("") >= set(COMMANDS)
    assert completed("um") == {"umount"}


def test_bash_completes_options_and_their_choices() -> None:
    assert {"--memory-size", "--option-file", "--background"} <= completed("mount", "--")
    assert completed("mount", "--profile", "") == {"auto", "large-files", "small-files"}
    assert completed("status", "-o", "j") == {"json"}


def test_bash_completes_folders(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "some-folder").mkdir()
    (folder / "some-file").touch()

    assert completed("umount", "some", folder=str(folder)) == {"some-folder"}
    assert completed("load", "some", folder=str(folder)) >= {"some-folder", "some-file"}
    assert completed("mount", "-f", "some", folder=str(folder)) >= {"some-folder", "some-file"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_learns_every_option(shell: str) -> None:
    text = script(full_parser(), shell)

    for word in (*COMMANDS, "memory-size", "option-file"):
        assert word in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, timeout=20)
