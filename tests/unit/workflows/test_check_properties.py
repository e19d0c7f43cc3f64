"""Damaged files: a check always ends with problems or a plan."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flowyard.workflows.check import check

TEXT = """name: w
version: "1"
timeout: 2s
on_error: pass
configs: {adapters: {z: {model: m, src: x, options: {a: 1}}}}
models: {m: m.pt, q: {workflow: "q:1"}, n: {url: n.onnx, device: [cpu, 0], inputs: [{name: x, dtype: float32, shape: [null, 2]}]}}
functions: {f: steps:f}
workflow:
  a: [m, in.x]
  b: {call: [n, a], when: "a.p < `0.6` && in.headers.x", else: [f, in], timeout: 1s, retries: 1, fallback: {value: {p: [1]}}}
  c: [switch, b.k, {x: a, default: [pick, b, {value: "q[0]"}]}]
  d: [functionsApply, [m, f], [map, n, c]]
  e: {call: [map, {workflow: v}, [adapter, z, [q, c]]], cache: {ttl: 1s, max_entries: 3}}
  out: [ensemble, d, e, &l [merge, a, b], *l, {value: {method: mean, weights: [1, 2, 3, 4]}}]
"""
SPEC = """models:
  min-workers: 1
  timeout-ms: 5000
  m: {url: m.mar, batch-size: 3}
  n: {url: n.mar}
dag:
  f: [m, n]
  m: [g]
  n: [g, h]
"""
PIECES = [
    "dag: ",
    "workflow: ",
    "cache: ",
    "m",
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
        return b"def f(x, context): ...\ndef g(x, context): ...\ndef h(*x): ..." if path == "steps.py" else None

    def names(self) -> list[str]:
        return ["m.pt", "n.onnx", "m.mar", "n.mar", "steps.py"]


EDITS = st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=5)


@settings(max_examples=500, deadline=None)
@given(text=st.sampled_from([TEXT, SPEC]), edits=EDITS, handler=st.sampled_from([None, "steps.py", "no-module", "../x"]))
def test_a_damaged_file_gives_problems_or_a_plan(text: str, edits: list[tuple[int, int, str]], handler: str | None) -> None:
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    for filename in ("w.yaml", "w.json"):
        checked = check(text.encode("utf-8", "surrogatepass"), filename, Files(), handler)
        assert (checked.plan is None) == any(problem.severity == "error" for problem in checked.problems)
        assert all(problem.file and problem.message for problem in checked.problems)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_file_give_problems(data: bytes) -> None:
    assert check(data, "w.yaml", None).plan is None
    assert check(data, "w.json", None).plan is None


def test_the_undamaged_files_have_plans() -> None:
    checked = check(TEXT.encode(), "w.yaml", Files())
    assert checked.problems == ()
    assert checked.plan is not None
    checked = check(SPEC.encode(), "w.yaml", Files(), "steps.py")
    assert checked.problems == ()
    assert checked.plan is not None
