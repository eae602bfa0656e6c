"""Audit the demo model in every mode and print the tables of SECURITY.md.

    python -m benchmarks.audit_tables [--out audit-results]

Writes a table, JSON and a plot for each mode, and audit.md with all of them, into the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.audit_tables.markdown import as_markdown, reasons
from benchmarks.audit_tables.modes import audit_modes
from stip_keys.audit.plot import draw
from stip_keys.audit.report import as_json, as_table


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("audit-results"), metavar="FOLDER")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        audits = audit_modes(Path(folder), told=lambda text: print(text, file=sys.stderr))
    for mode, audit in audits.items():
        stem = f"{mode.scheme}-{mode.head}"
        (out / f"{stem}.txt").write_text(as_table(audit), encoding="utf-8")
        text = json.dumps(as_json(audit), indent=2, ensure_ascii=False)
        (out / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        draw(audit, out / f"{stem}.png")
    tables = f"{as_markdown(audits)}\nWhy attacks fail:\n\n{reasons(audits)}"
    (out / "audit.md").write_text(tables, encoding="utf-8")
    print(tables, end="")
    print(f"{time.perf_counter() - begun:.0f} s; {out}/ holds each mode's table", file=sys.stderr)


if __name__ == "__main__":
    main()
