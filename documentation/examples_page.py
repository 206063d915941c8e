"""The example trainers as pages: their source as it is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {"digits": "torch", "breast_cancer": "scikit-learn", "diabetes": "NumPy alone"}
_HEADING = """# Example trainers

Three complete trainers, as they are in `edge_client/examples`. How one is written stands in
[training code](../training-code.md).
"""


def examples_page() -> str:
    """Return the page."""
    lines = [_HEADING]
    for name, library in EXAMPLES.items():
        source = (ROOT / "edge_client" / "examples" / f"{name}.py").read_text(encoding="utf-8")
        lines += [f"## {name}.py: {library}", "", "```python", source.rstrip(), "```", ""]
    return "\n".join(lines)
