"""The command `smrl completion`: scripts that complete smrl's commands, options, presets and settings in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

_BASH = """\
_smrl() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    local list=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        list="{commands}"
{choose}
    fi
    COMPREPLY=($(compgen -W "$list" -- "$current"))
    case "${{COMPREPLY[*]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
    return 0
}}
complete -o default -o bashdefault -F _smrl smrl
"""
_ZSH = """\
(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
_smrl() {{
    local current="$words[CURRENT]" previous="$words[CURRENT-1]" command="$words[2]" list=""
    if [ "$CURRENT" -eq 2 ]; then
        list="{commands}"
{choose}
    fi
    local -a found=(${{=list}})
    compadd -- ${{found:#*=}}
    compadd -S '' -- ${{(M)found:#*=}}
    (( CURRENT > 2 )) && _files
}}
compdef _smrl smrl
"""
_CHOOSE = """\
    elif [ "$previous" = --preset ] || [ "$previous" = show ]; then
        list="{presets}"
    else
        case "$command" in
{cases}
        esac
        case "$command:$current" in
            *:-*|*:) ;;
            train:*|tune:*|resume:*) list="$list {settings}" ;;
        esac"""


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Writes the script for a shell, which reads it by `source <(smrl completion SHELL)`.

    Args:
        shell: "bash" or "zsh".
        parser: Parser of the command line, whose commands and options are completed.
    """
    from runtime.jobs.catalog import CATALOG
    from runtime.settings.presets import preset_names

    commands = _commands_of(parser)
    cases = [
        f'            {name}) list="{" ".join(_words_of(command))}" ;;' for name, command in sorted(commands.items())
    ]
    settings = sorted({f"{path.rsplit('.', 1)[-1]}=" for path in CATALOG.known_paths()})
    choose = _CHOOSE.format(presets=" ".join(preset_names()), cases="\n".join(cases), settings=" ".join(settings))
    return (_ZSH if shell == "zsh" else _BASH).format(commands=" ".join(sorted(commands)), choose=choose)


def _commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise AssertionError("smrl has commands")


def _words_of(command: argparse.ArgumentParser) -> list[str]:
    """The long options of a command, and the words that its arguments may be."""
    options = [text for action in command._actions for text in action.option_strings if text.startswith("--")]
    choices = [
        str(choice) for action in command._actions if not action.option_strings for choice in action.choices or ()
    ]
    return [*choices, *options]
