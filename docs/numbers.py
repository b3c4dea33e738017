"""Bring the numbers in the documents up to date with the committed results.

    python docs/numbers.py            # rewrites what changed
    python docs/numbers.py --check    # only says what would change

A number that comes from a result names it in a comment behind it, which readers do not see:
`90.27 ± 0.77 <!-- results/train/metrics.json:translation -->`. The new number has as many decimals
as the old one, and a 95 % interval if the old one had one.
"""

import json
import re
import sys
from pathlib import Path

LARGEST = 1e100
"""No number in a result is as large."""
ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "benchmarks/README.md", "tables/factor_transfer/README.md")
NUMBER = re.compile(
    r"(?P<mean>-?[\d,]+(?:\.\d+)?)(?P<interval> ± [\d.]+)?"
    r"(?P<behind>(?: %)?\s+<!-- (?P<file>[\w/.-]+\.json):(?P<key>[\w.]+) -->)"
)


def documents() -> list[Path]:
    """The Markdown files that people write."""
    found = ([*ROOT.glob(p)] if "*" in p else [ROOT / p] for p in DOCUMENTS)
    return sorted(path for paths in found for path in paths)


def refreshed(text: str) -> str:
    """A document's text with every marked number as the results have it now.

    Raises:
        ValueError: a result cannot be read, or has no such number; or a comment names one, but
            there is no number before it.
    """
    if (stray := re.search(r"<!--[^>]*\.json:[^>]*-->", NUMBER.sub("", text))) is not None:
        raise ValueError(f"{stray[0]} marks no number")
    return NUMBER.sub(_written, text)


def _written(found: re.Match) -> str:
    try:
        text = (ROOT / found["file"]).read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_unique)
        for key in found["key"].split("."):
            value = value[key]
        mean = _number(value["mean"] if isinstance(value, dict) else value)
        decimals = len(found["mean"].partition(".")[2])
        interval = f" ± {_number(value['ci95'], 0):.{decimals}f}" if found["interval"] else ""
        return f"{mean:,.{decimals}f}{interval}{found['behind']}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"{found['file']}:{found['key']} is no such number ({why})") from None


def _number(value: object, least: float = -LARGEST) -> int | float:
    """What a result says, if it is a number that a stage may have written."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"it is {str(value)[:60]!r}")
    if not least <= value <= LARGEST:  # nor if it is not a number
        raise ValueError(f"it is {str(value)[:60]}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _write(path: Path, text: str) -> None:
    """Replace a document, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        sys.exit(f"error: {path.relative_to(ROOT)}: {error}")


def main() -> None:
    if unknown := [word for word in sys.argv[1:] if word != "--check"]:
        sys.exit(f"error: {unknown[0]!r} is no argument; accepts --check")
    check, stale = "--check" in sys.argv[1:], {}
    for path in documents():
        try:
            text = path.read_text(encoding="utf-8")
            if (new := refreshed(text)) != text:
                stale[path] = new
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path.relative_to(ROOT)}: {error}")
    for path, new in stale.items():
        if not check:
            _write(path, new)
        print(f"{'is out of date' if check else 'updated'}: {path.relative_to(ROOT)}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
