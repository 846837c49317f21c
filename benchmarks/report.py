"""Files of results: JSON for programs, CSV for tables; and the words after a run."""

import csv
import json
from pathlib import Path

from normprop.companion.benchmarks import SCHEMA

COLUMNS = (
    "case",
    "group",
    "implementation",
    "status",
    "reason",
    "seconds_20",
    "seconds_50",
    "seconds_80",
    "ratio_20",
    "ratio_50",
    "ratio_80",
    "baseline",
    "threads",
    "rounds",
    "repetitions",
    "saved_bytes",
    "saved_other_bytes",
    "peak_bytes",
    "operators",
)


def content(origin: dict, settings: dict, cases: list[dict], goals: list[dict]) -> dict:
    """What a file of results holds."""
    return {"schema": SCHEMA, **origin, "settings": settings, "goals": goals, "cases": cases}


def rows(cases: list[dict]) -> list[dict]:
    """One row an implementation, its quantiles in columns of their own; see ``COLUMNS``."""
    found = []
    for case in cases:
        head = {
            "case": case["name"],
            "group": case["group"],
            "baseline": case["baseline"],
            "threads": case["threads"],
        }
        entries = case["implementations"] or [
            {"name": None, "status": case["status"], "reason": case["reason"]}
        ]
        for entry in entries:
            row = {**head, "implementation": entry["name"], "status": entry["status"]}
            row["reason"] = entry.get("reason")
            for name in ("seconds", "ratio"):
                values = entry.get(name) or (None, None, None)
                row |= {f"{name}_{q}": v for q, v in zip((20, 50, 80), values, strict=True)}
            row |= {name: entry.get(name) for name in ("rounds", "repetitions")}
            row |= {k: v for k, v in entry.get("figures", {}).items() if k in COLUMNS}
            found.append(row)
    return found


def write(folder: Path, name: str, found: dict) -> list[Path]:
    """Write ``name``.json and ``name``.csv, each whole or not at all.

    Returns:
        The two paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {k: v for k, v in found.items() if k not in ("goals", "cases")}
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    # One line a goal and one an implementation: a person can read it, and a difference is small.
    text += ',\n "goals": [\n' + _lines(found["goals"]) + "\n ],\n"
    text += ' "cases": [\n' + ",\n".join(map(_case, found["cases"])) + "\n ]\n}\n"
    paths = [folder / f"{name}.json", folder / f"{name}.csv"]
    _replace(paths[0], text)
    part = paths[1].with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows(found["cases"]))
    part.replace(paths[1])
    return paths


def summary(found: dict) -> str:
    """What failed or was not run, in words."""
    lines = []
    for case in found["cases"]:
        if case["status"] != "measured":
            lines.append(f"{case['name']}: {case['status']}, {case['reason']}")
        for entry in case["implementations"]:
            if entry["status"] in ("failed", "unavailable"):
                lines.append(
                    f"{case['name']}, {entry['name']}: {entry['status']}, {entry['reason']}"
                )
    return "\n".join(lines)


def _case(case: dict) -> str:
    head = json.dumps({k: v for k, v in case.items() if k != "implementations"}, ensure_ascii=False)
    if not case["implementations"]:
        return f'  {head[:-1]}, "implementations": []}}'
    return f'  {head[:-1]}, "implementations": [\n{_lines(case["implementations"], 3)}\n  ]}}'


def _lines(items: list[dict], indent: int = 2) -> str:
    return ",\n".join(" " * indent + json.dumps(item, ensure_ascii=False) for item in items)


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
