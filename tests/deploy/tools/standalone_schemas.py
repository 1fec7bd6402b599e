#!/usr/bin/env python3
"""Turns schemas that refer to one file of definitions into files that stand alone, as kubeconform reads them.

Usage: standalone_schemas.py FROM TO
"""

import json
import pathlib
import sys


def load(file):
    return json.loads(file.read_text().replace("/api/_definitions.json#", "#"))


def add_references(node, definitions, found):
    """Adds the names of all definitions that a part of a schema refers to, directly or through others."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and isinstance(node.get("$ref"), str):
        name = node["$ref"].rsplit("/", 1)[1]
        if name not in found:
            found.add(name)
            add_references(definitions[name], definitions, found)
    for child in children:
        add_references(child, definitions, found)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = map(pathlib.Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    definitions = load(source / "_definitions.json")["$defs"]
    for file in sorted(source.glob("*.json")):
        if file.name.startswith("_") or file.name == "all.json":
            continue
        schema, found = load(file), set()
        schema.pop("$id", None)
        add_references(schema, definitions, found)
        schema["$defs"] = {name: definitions[name] for name in sorted(found)}
        (target / file.name).write_text(json.dumps(schema))


if __name__ == "__main__":
    main()
