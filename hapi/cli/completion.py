"""`hapi completion`: the script by which a shell completes our commands, agents and session ids."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hapi.cli import output
from hapi.cli.common import examples

_BASH = """\
_hapi() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(hapi __complete "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null); do
        COMPREPLY+=("${line%%$'\\t'*}")
    done
}
complete -o default -F _hapi hapi
"""
_ZSH = """\
#compdef hapi
_hapi() {
    local line
    local -a found
    for line in "${(@f)$(hapi __complete $((CURRENT - 1)) "${words[@]}" 2>/dev/null)}"; do
        [[ -n $line ]] && found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    if (( $#found )); then _describe hapi found; else _files; fi
}
if [ "$funcstack[1]" = "_hapi" ]; then _hapi "$@"; else compdef _hapi hapi; fi
"""
_FISH = """\
function __hapi_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l found (hapi __complete (count $before) $before "$current" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path "$current"
    end
end
complete -c hapi -f -a '(__hapi_complete)'
"""


class Shell(StrEnum):
    """The shells that we can teach."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def register(app: typer.Typer) -> None:
    """Add `hapi completion`."""
    app.command(
        "completion",
        epilog=examples(
            "echo 'eval \"$(hapi completion bash)\"' >> ~/.bashrc",
            "echo 'eval \"$(hapi completion zsh)\"' >> ~/.zshrc   (behind compinit)",
            "hapi completion fish > ~/.config/fish/completions/hapi.fish",
        ),
    )(completion)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script that teaches a shell our commands, agents and sessions."""
    output.say(_SCRIPTS[shell].rstrip("\n"))
