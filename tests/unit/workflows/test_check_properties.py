"""Damaged files: a check always ends with problems or a plan."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.workflows.check import check

TEXT = """name: w
version: "1"
timeout: 2s
on_error: pass
models: {m: m.pt, n: {url: n.onnx, device: [cpu, 0], inputs: [{name: x, dtype: float32, shape: [null, 2]}]}}
functions: {f: steps:f}
workflow:
  a: [m, in.x]
  b: {call: [n, a], when: "a.p < `0.6` && in.headers.x", else: [f, in], timeout: 1s, retries: 1, fallback: {value: {p: [1]}}}
  c: [switch, b.k, {x: a, default: [pick, b, {value: "q[0]"}]}]
  d: [functionsApply, [m, f], [map, n, c]]
  out: [ensemble, d, &l [merge, a, b], *l, {value: {method: mean, weights: [1, 2, 3]}}]
"""
PIECES = [
    "",
    " ",
    "\n",
    "\t",
    "[",
    "]",
    "{",
    "}",
    ":",
    ",",
    "'",
    '"',
    "*l",
    "&l ",
    "<<: ",
    "- ",
    "!x ",
    "in",
    "out",
    "null",
    "-1",
    "1e999",
    "`",
    ".",
    "@",
    "\x00",
    "é",
    "😀",
    "value: ",
    "call: ",
    "when: ",
    "a",
    "---\n",
    "#",
    "|",
    "? ",
]


class Files:
    def exists(self, path: str) -> bool:
        return path in self.names()

    def read(self, path: str) -> bytes | None:
        return b"def f(x): ..." if path == "steps.py" else None

    def names(self) -> list[str]:
        return ["m.pt", "n.onnx", "steps.py"]


@settings(max_examples=500, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=5))
def test_a_damaged_file_gives_problems_or_a_plan(edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    for filename in ("w.yaml", "w.json"):
        checked = check(text.encode("utf-8", "surrogatepass"), filename, Files())
        assert (checked.plan is None) == any(problem.severity == "error" for problem in checked.problems)
        assert all(problem.file and problem.message for problem in checked.problems)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_file_give_problems(data: bytes) -> None:
    assert check(data, "w.yaml", None).plan is None
    assert check(data, "w.json", None).plan is None


def test_the_undamaged_file_has_a_plan() -> None:
    checked = check(TEXT.encode(), "w.yaml", Files())
    assert checked.problems == ()
    assert checked.plan is not None
