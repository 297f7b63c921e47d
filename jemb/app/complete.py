"""Shell code that completes `jemb`: a table of options and values, made from the config classes, and a reader of it.

What follows `=` is completed from an option's values where it has some, else as a file.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from jemb.config import describe

PLAIN = ("text", "int", "float")
"""Words of an option's type that are no values to choose from."""
GROUPS_OF = "train"

BASH = r"""
_jemb() {
    local line word before words command value prefix IFS=$' \t\n'
    line=${COMP_LINE:0:COMP_POINT}
    word=${line##*[[:space:]]}
    before=${line%"$word"}
    read -ra words <<< "$before"
    # Only what follows the program itself: there may be assignments before it.
    while ((${#words[@]})) && [[ ${words[0]##*/} != jemb ]]; do words=("${words[@]:1}"); done
    command=${words[1]-}
    COMPREPLY=()
    if [[ -z $command ]]; then
        COMPREPLY=($(compgen -W "$(_jemb_table "")" -- "$word"))
    elif [[ $word == *=* ]]; then
        value=${word#*=}
        prefix=${value%"${value##*[\[,]}"}
        value=${value#"$prefix"}
        [[ -n $prefix ]] && compopt -o nospace 2> /dev/null
        COMPREPLY=($(compgen -W "$(_jemb_table "$command ${word%%=*}")" -- "$value"))
        if ((${#COMPREPLY[@]} == 0)); then
            # Behind a colon, as in tasks=sts:FILE, readline takes the file for a word of its own.
            [[ $COMP_WORDBREAKS == *:* && $value == *:* ]] && value=${value##*:} prefix=
            compopt -o filenames 2> /dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$value")
        fi
        [[ $COMP_WORDBREAKS == *=* ]] || prefix=${word%%=*}=$prefix
        ((${#COMPREPLY[@]})) && COMPREPLY=("${COMPREPLY[@]/#/$prefix}")
    else
        COMPREPLY=($(compgen -W "$(_jemb_table "$command")" -- "$word"))
        ((${#COMPREPLY[@]})) && compopt -o nospace 2> /dev/null
        if [[ $command == @(inspect|new) ]] && ((${#COMPREPLY[@]} == 0)); then
            compopt -o filenames 2> /dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$word")
        fi
    fi
    return 0
}
complete -F _jemb jemb
"""

ZSH = r"""
_jemb() {
    local -a values
    if ((CURRENT == 2)); then
        values=(${=$(_jemb_table "")})
        compadd -- $values
    elif [[ $PREFIX == *=* ]]; then
        values=(${=$(_jemb_table "$words[2] ${PREFIX%%=*}")})
        compset -P 1 '*='
        if compset -P '*[\[,]'; then compadd -S '' -- $values
        elif (($#values)); then compadd -- $values
        else compset -P '*:'; _files; fi
    else
        values=(${=$(_jemb_table "$words[2]")})
        case $words[2] in inspect|new) _files -/ ;; esac
        compadd -S '' -- ${(M)values:#*[=.]}
        compadd -- ${values:#*[=.]}
    fi
}
compdef _jemb jemb
"""


def script(shell: str, commands: Mapping[str, type]) -> str:
    """What bash, zsh or fish has to read to complete `jemb`. commands: the config class of each."""
    table = completions(commands)
    if shell == "fish":
        return _fish(table)
    cases = "\n".join(
        f"        {shlex.quote(key)}) echo {shlex.quote(' '.join(words))} ;;" for key, words in table.items()
    )
    head = "#compdef jemb\n" if shell == "zsh" else ""
    return (
        f'{head}_jemb_table() {{\n    case "$1" in\n{cases}\n    esac\n}}\n{(ZSH if shell == "zsh" else BASH).strip()}'
    )


def completions(commands: Mapping[str, type]) -> dict[str, list[str]]:
    """What may stand where: "" -> commands; "COMMAND" -> `option=`, or `option.` where the user's own word follows;
    "COMMAND OPTION" -> its values."""
    table: dict[str, list[str]] = {"": list(commands)}
    for name, config in commands.items():
        options: dict[str, list[str]] = {}
        for option, kind, _, _ in describe(config):
            own = next((option.index(word) for word in (".NAME", ".FIELD") if word in option), None)
            options.setdefault(f"{option}=" if own is None else option[: own + 1], _values(kind) if own is None else [])
        if name == GROUPS_OF:
            options |= {f"{group}=": choices for group, choices in _groups().items()}
            options["--config-dir="] = []
        if name == "completion":
            options |= {shell: [] for shell in options["shell="]}
        table[name] = [*options, "--help", "--debug"]
        table |= {f"{name} {option.removesuffix('=')}": values for option, values in options.items() if values}
    return table


def _values(kind: str) -> list[str]:
    """`auto|ddp|null` -> all three; `text|null` -> none: what a file is asked for shall be completed as one."""
    words = kind.removeprefix("list of ").split("|")
    return [] if "text" in words else [word for word in words if word not in PLAIN]


def _groups() -> dict[str, list[str]]:
    """The named sets of values of `conf/`: group -> names."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(str(files("jemb_conf"))).glob("*/*.yaml")):
        found.setdefault(path.parent.name, []).append(path.stem)
    return found


def _fish(table: Mapping[str, list[str]]) -> str:
    lines = [f"complete -c jemb -f -n __fish_use_subcommand -a {shlex.quote(' '.join(table['']))}"]
    for key, words in table.items():
        if not key:
            continue
        command, _, option = key.partition(" ")
        shown = [f"{option}={word}" for word in words] if option else words
        lines.append(f"complete -c jemb -n '__fish_seen_subcommand_from {command}' -a {shlex.quote(' '.join(shown))}")
    return "\n".join(lines)
