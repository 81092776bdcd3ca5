"""The scripts by which shells ask for completions, where those of click do not do."""

from __future__ import annotations

import os

from click.shell_completion import (
    BashComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

WHOLE_LINE = "line"  # instead of the number of a word: COMP_WORDS is the line, up to the cursor


@add_completion_class
class Bash(BashComplete):
    """Bash takes a word apart at : and =, and replaces what follows the last of these. So it passes
    the line, and leaves out of what comes back the part that it has already."""

    source_template = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="" begun="" word type value
    word="${line##*[[:space:]]}"
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=":"
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+="="
    [[ -n $breaks && $word == *[$breaks]* ]] && begun="${word%%"${word##*[$breaks]}"}"
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                [[ $value == *= ]] && compopt -o nospace
                COMPREPLY+=("${value#"$begun"}") ;;
        esac
    done < <(env COMP_WORDS="$line" COMP_CWORD=line \\
%(complete_var)s=bash_complete "$1" 2>/dev/null)
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        if os.environ.get("COMP_CWORD") != WHOLE_LINE:  # a script that an older build has printed
            return super().get_completion_args()
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if line[-1:].isspace() or not words else words.pop()
        return words[1:], incomplete


@add_completion_class
class Zsh(ZshComplete):
    """No blank follows what ends in =."""

    source_template = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a plain described open response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type key descr in ${response}; do
        if [[ "$type" == "plain" && "$descr" != "_" ]]; then
            described+=("$key":"$descr")
        elif [[ "$type" == "plain" && "$key" == *= ]]; then
            open+=("$key")
        elif [[ "$type" == "plain" ]]; then
            plain+=("$key")
        elif [[ "$type" == "dir" ]]; then
            _path_files -/
        elif [[ "$type" == "file" ]]; then
            _path_files -f
        fi
    done
    [ -n "$described" ] && _describe -V unsorted described -U
    [ -n "$plain" ] && compadd -U -V unsorted -a plain
    [ -n "$open" ] && compadd -U -S '' -V unsorted -a open
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
