"""JSON Schemas of the files that people write, and the reference of the project file; both come from the nouns.

`python -m kdexport.schemas` writes docs/schemas/ and docs/reference/project-file.md of the current folder anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdexport.nouns.base import Noun
from kdexport.nouns.manifest import Manifest
from kdexport.nouns.metric import Metric
from kdexport.nouns.profile import HardwareProfile
from kdexport.nouns.project import Incumbent, Project
from kdexport.nouns.target import Objective, Target
from kdexport.storage.files import write_text

Schema = Mapping[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOUNS: Mapping[str, type[Noun]] = {
    "hardware-profile": HardwareProfile,
    "incumbent": Incumbent,
    "manifest": Manifest,
    "metric": Metric,
    "objective": Objective,
    "project": Project,
    "target": Target,
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
HEAD = """\
# The project file

Written by `python -m kdexport.schemas` from `kdexport/nouns/`; the same as a JSON Schema:
[project.json](../schemas/project.json). `kdexport init` writes a commented file to start from.

- Relative paths are relative to the project file.
- `${NAME}` is replaced from the environment; a name that is not set is an error that says where.
- Unknown keys, NaN and keys that stand twice are errors, with file, line and the nearest known key.
"""


def schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema (draft 2020-12) by file name without suffix. A schema knows keys, types and bounds; rules between
    keys (a rented offering has a price) are known to the nouns alone."""
    return {name: {"$schema": DIALECT, **noun.model_json_schema()} for name, noun in NOUNS.items()}


def files() -> dict[str, str]:
    """The text of every generated file, by its path below docs/."""
    texts = {f"schemas/{n}.json": json.dumps(s, indent=1, ensure_ascii=False) + "\n" for n, s in schemas().items()}
    return {**texts, "reference/project-file.md": project_reference()}


def project_reference() -> str:
    """Every key of a project file, one table for each mapping."""
    schema = Project.model_json_schema()
    definitions = schema["$defs"]
    order = list(dict.fromkeys(_references(schema["properties"], definitions)))
    sections = [_section("Project", schema)] + [_section(name, definitions[name]) for name in order]
    return "\n".join([HEAD, *sections])


def _references(node: Any, definitions: Schema) -> Iterator[str]:
    """Names of the mappings below a node, in the order of reading, outer before inner."""
    if isinstance(node, dict):
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            yield name
            yield from _references(definitions[name].get("properties"), definitions)
        for value in node.values():
            yield from _references(value, definitions)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value, definitions)


def _section(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    about = schema.get("description", "").replace("\n", " ")
    lines = [f"## {name}", "", *([about, ""] if about else [])]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        default = "**required**" if key in required else "–" if "$ref" in field else _default(field.get("default"))
        lines.append(f"| `{key}` | {_type(field)} | {default} | {field.get('description', '')} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    return "–" if value in (None, "", {}, []) else f"`{json.dumps(value)}`"


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(option) for option in options if option.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping of {_type(inner)}" if isinstance(inner, dict) else "mapping"
    name = "path" if field.get("format") == "path" else str(field["type"])
    return " ".join([name, *(f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field)])


if __name__ == "__main__":
    for path, text in files().items():
        write_text(Path("docs") / path, text)
