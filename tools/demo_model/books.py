"""Reads a folder of books (plain text, or xz-compressed) and brings them into one form.

That form is UTF-8 with one paragraph per line and an empty line between paragraphs.
"""

import lzma
import os
import re

START_MARK = re.compile(r"^\*\*\* ?START OF .*\*\*\*\s*$", re.MULTILINE)
END_MARK = re.compile(r"^\s*(\*\*\* ?END OF |End of (the )?Project Gutenberg)", re.MULTILINE)
WRAP_WIDTH = 84  # Lines of a hard-wrapped file are no longer than this.


def read_book(path):
    """Returns the text of one .txt or .txt.xz file, its paragraphs unwrapped."""
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = strip_edition_notes(text.replace("\r\n", "\n").replace("\r", "\n"))
    return unwrap(text) if is_hard_wrapped(text) else text.strip() + "\n"


def strip_edition_notes(text):
    """Leaves out what stands before the start mark and after the end mark of a digital edition."""
    start = START_MARK.search(text)
    if start:
        text = text[start.end() :]
    end = END_MARK.search(text)
    return text[: end.start()] if end else text


def is_hard_wrapped(text):
    """True if hardly any line is longer than the width that such files are wrapped at."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and sum(len(line) > WRAP_WIDTH for line in lines) < 0.02 * len(lines)


def unwrap(text):
    """Joins the lines of each paragraph; indented lines (verse, lists) keep their breaks."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = block.split("\n")
        keeps_breaks = sum(line.startswith("  ") for line in lines) > len(lines) / 2
        joined = ("\n" if keeps_breaks else " ").join(line.strip() for line in lines).strip()
        if joined and joined != "Enlarge":
            paragraphs.append(re.sub(r"(?<!\w)_([^_]+)_(?!\w)", r"\1", joined))
    return "\n\n".join(paragraphs) + "\n"


def book_name(path):
    """The file name without its folder and endings, as books are named in reports."""
    return os.path.basename(path).split(".txt")[0]


def find_books(folders):
    """Paths of all books in the folders, sorted by name, so that the order does not vary."""
    paths = []
    for folder in folders:
        for name in os.listdir(folder):
            if name.endswith((".txt", ".txt.xz")):
                paths.append(os.path.join(folder, name))
    return sorted(paths, key=book_name)
