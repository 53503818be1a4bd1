"""The table of ``docs/compatibility.md`` that says how far each method is from the original program's vectors.

make vectors        compares everything anew and rewrites the table
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ovss.methods.core.info import MethodInfo
from ovss.methods.names import built_in_info, list_methods

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
RECORD = "OVSS_VECTOR_RECORD"
HEAD = "| method | paper | tensors compared | largest difference, relative | tolerance |\n|---|---|---|---|---|\n"
_SHARED = {"lposs-plus": "lposs"}
"""Methods whose vectors are in the file of another."""


def vectors_of(method: str) -> str:
    """File of vectors of a method, without its ending; "" if there is none."""
    wanted = _SHARED.get(method, method).replace("-", "")
    files = (ROOT / "tests" / "data" / "oracles").glob("*.safetensors")
    return next((file.stem for file in files if file.stem.replace("-", "") == wanted), "")


def methods_with_vectors() -> dict[str, str]:
    """File of vectors by method."""
    return {m: found for m in list_methods(plugins=False) if (found := vectors_of(m))}


def rows_of(page: str) -> dict[str, list[str]]:
    """Cells of each row of the table, by method."""
    table = page.partition(HEAD)[2]
    lines = re.match(r"(\|.*\|\n)*", table)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in (lines.group() if lines else "").splitlines()]
    return {row[0].strip("`"): row for row in cells}


def main() -> None:
    """Run the comparisons and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        tests = sorted({str(p) for p in Path(__file__).parent.rglob("test_*.py") if "load_oracle(" in p.read_text()})
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *tests],
            env={**os.environ, RECORD: str(record)},
            check=True,
            cwd=ROOT,
        )
        lines = [line.split("\t") for line in record.read_text().splitlines()]
    rows = []
    for method, name in methods_with_vectors().items():
        found = {key: max(float(v) for n, k, v in lines if (n, k) == (name, key)) for n, key, _ in lines if n == name}
        if not found:
            sys.exit(f"no test of {method} compares anything with the vectors of {name} by oracle_parts.error")
        info = built_in_info(method)
        assert isinstance(info, MethodInfo)
        rows.append(f"| `{method}` | {info.paper} | {len(found)} | {max(found.values()):.1e} | 2e-05 |\n")
    page = PAGE.read_text()
    before, _, after = page.partition(HEAD)
    rest = after[len("".join(re.findall(r"\A(?:\|.*\|\n)*", after))) :]
    PAGE.write_text(before + HEAD + "".join(rows) + rest)


if __name__ == "__main__":
    main()
