"""Audit the demo model in every mode; print the tables of docs/privacy.md and SECURITY.md.

    python -m benchmarks.audit_tables [--out audit-results]

Writes a table, JSON and a plot per mode into the folder, audit.md (the tables of docs/privacy.md)
and summary.md (those of SECURITY.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.audit_tables.markdown import as_markdown, summary
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
        audits = audit_modes(Path(folder), report=lambda text: print(text, file=sys.stderr))
    for mode, audit in audits.items():
        stem = f"{mode.scheme}-{mode.head}"
        (out / f"{stem}.txt").write_text(as_table(audit), encoding="utf-8")
        text = json.dumps(as_json(audit), indent=2, ensure_ascii=False)
        (out / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        draw(audit, out / f"{stem}.png")
    for name, text in (("summary.md", summary(audits)), ("audit.md", as_markdown(audits))):
        (out / name).write_text(text, encoding="utf-8")
        print(text)
    print(f"{time.perf_counter() - begun:.0f} s; {out}/ holds each mode's table", file=sys.stderr)


if __name__ == "__main__":
    main()
