#!/usr/bin/env python3
"""Writes manual pages and completions for bash from what the programs print for --help.

Usage: manual_pages.py VERSION OUT PROGRAM…. Makes OUT/man/man1/NAME.1.gz and
OUT/bash-completion/completions/NAME for each program.
"""

import dataclasses
import gzip
import os
import pathlib
import re
import subprocess
import sys
import textwrap

COLUMN = 30  # where descriptions begin in --help
BREAK = r",\:"  # a comma in roff, after which a line may be broken


@dataclasses.dataclass
class Entry:
    name: str  # "-h,--help", "--server HOST:PORT [127.0.0.1:50051]" or "benchmark"
    text: str = ""

    def flags(self):
        return re.findall(r"(?:^|,)(--?[a-z0-9][a-z0-9-]*)", self.name.split(" ")[0])

    def choices(self):
        """The values that the help lists in braces."""
        found = re.search(r":\{([^}]*)\}", self.name)
        return re.split(r",\s*", found[1]) if found else []

    def takes_value(self):
        return bool(re.match(r"\S+ [A-Z]", self.name)) and not self.name.startswith("-h,")


@dataclasses.dataclass
class Help:
    about: str = ""
    usage: str = ""
    sections: dict = dataclasses.field(default_factory=dict)  # title → [Entry]
    footer: str = ""


def begins_name_only(lines, index):
    """Whether the description of this entry begins in the next line, as its name is too long."""
    line = lines[index]
    if len(line) < COLUMN or line[COLUMN - 2:COLUMN] == "  ":
        return False
    if line[COLUMN - 1] != " ":
        return True
    return index + 1 < len(lines) and lines[index + 1].startswith(" " * COLUMN)


def parse(text):
    """What CLI11's formatter printed, as its parts."""
    about, _, rest = text.partition("Usage: ")
    help_ = Help(about=about.strip())
    lines = rest.splitlines()
    help_.usage = lines[0].strip()
    section, footer = None, []
    for index, line in enumerate(lines[1:], start=1):
        title = re.fullmatch(r"(\[Option Group: )?([A-Z][A-Za-z ]*?)(\]|:)", line)
        if title:
            section = help_.sections.setdefault(title[2], [])
        elif section is not None and re.match(r"  \S", line):
            if begins_name_only(lines, index):
                section.append(Entry(line.strip()))
            else:
                section.append(Entry(line[:COLUMN].strip(), line[COLUMN:].strip()))
        elif section and line.startswith(" " * 3):
            section[-1].text = f"{section[-1].text} {line.strip()}".strip()
        elif line.strip():
            footer.append(line.strip())
    help_.footer = "\n".join(footer)
    return help_


def help_of(*command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KASCADE")}
    return parse(subprocess.run([*command, "--help"], capture_output=True, text=True, check=True,
                                env=environment).stdout)


def escaped(text):
    """For roff: a line may not begin with a dot, and a hyphen is not a minus."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paged_entries(entries):
    return [f".TP\n\\fB{escaped(entry.name).replace(',', BREAK)}\\fR\n{escaped(entry.text) or '.br'}" for entry in entries]


def without_commands(help_):
    return {title: entries for title, entries in help_.sections.items() if title != "Subcommands"}


def manual_page(name, version, help_, commands):
    """The page in roff. `commands` maps each command to its own help."""
    about = help_.about.rstrip(".")
    lines = [f'.TH {name.upper()} 1 "" "kascade-serve {version}" "Kascade Serve"', ".ad l", ".nh", ".SH NAME",
             f"{escaped(name)} \\- {escaped(about[:1].lower() + about[1:])}", ".SH SYNOPSIS",
             f".B {escaped(help_.usage)}"]
    for title, entries in without_commands(help_).items():
        lines += [f".SH {escaped(title.upper())}", *paged_entries(entries)]
    if commands:
        lines.append(".SH COMMANDS")
    for command, own in commands.items():
        lines += [f".SS {escaped(own.usage)}", escaped(own.about)]
        for entries in without_commands(own).values():
            lines += paged_entries(entry for entry in entries if "--help" not in entry.name)
    if help_.footer:
        lines += [".SH NOTES", escaped(help_.footer)]
    lines += [".SH SEE ALSO", "/usr/share/doc/kascade\\-serve/docs"]
    return "\n".join(lines) + "\n"


def entries_of(help_):
    return [entry for entries in without_commands(help_).values() for entry in entries if entry.flags()]


def value_cases(helps):
    """Cases of a bash script, one for each option that takes a value. `helps` maps commands to their help."""
    cases, plain = [], set()
    for command, help_ in helps.items():
        for entry in filter(Entry.takes_value, entries_of(help_)):
            words = " ".join(entry.choices())
            if not words:
                plain |= set(entry.flags())
                continue
            cases += [f"    {command or '*'}:{flag}) COMPREPLY=($(compgen -W '{words}' -- \"$word\")); return ;;"
                      for flag in entry.flags()]
    if plain:
        cases.append("    *:" + "|*:".join(sorted(plain)) + ") return ;;")
    return cases


def completion(name, help_, commands):
    """A completion for bash: commands, options, and the values of options that have few."""
    function = "_" + name.replace("-", "_")
    cases = value_cases({"": help_, **commands})
    globals_ = [flag for entry in entries_of(help_) for flag in entry.flags()]
    words = {command: globals_ + [flag for entry in entries_of(own) for flag in entry.flags()]
             for command, own in commands.items()}
    words[""] = globals_ + list(commands)
    lists = [f"    {command}) words='{' '.join(dict.fromkeys(flags))}' ;;" for command, flags in words.items() if command]
    lists.append(f"    *) words='{' '.join(words[''])}' ;;")
    body = "\n".join(["  case $command:${COMP_WORDS[COMP_CWORD-1]} in", *cases, "  esac", "  case $command in", *lists,
                      "  esac"])
    find = textwrap.indent(f"""\
for ((i = 1; i < COMP_CWORD; ++i)); do
  case ${{COMP_WORDS[i]}} in
    {'|'.join(commands)}) command=${{COMP_WORDS[i]}}; break ;;
  esac
done
""", "  ") if commands else ""
    return f"""\
# Completion of {name} for bash, made from its --help. Where nothing is offered, bash offers files.
{function}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} command='' words i
  COMPREPLY=()
{find}{body}
  [[ $word != -* && -n $command ]] || COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F {function} {name}
"""


def write_all(version, out, programs):
    for folder in ("man/man1", "bash-completion/completions"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for program in programs:
        name = program.name
        help_ = help_of(program)
        commands = {entry.name: help_of(program, entry.name) for entry in help_.sections.get("Subcommands", [])}
        page = manual_page(name, version, help_, commands).encode()
        (out / f"man/man1/{name}.1.gz").write_bytes(gzip.compress(page, mtime=0))
        (out / f"bash-completion/completions/{name}").write_text(completion(name, help_, commands))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    write_all(sys.argv[1], pathlib.Path(sys.argv[2]), [pathlib.Path(program).resolve() for program in sys.argv[3:]])
