"""The files of `flowyard apply`: what is read, what is refused, what is written."""

from __future__ import annotations

import pytest

from flowyard.platform.client.answers import AdapterState, NameState, VersionState
from flowyard.platform.desired.documents import exported, file_digest, file_name, read, to_yaml
from flowyard.schemas.errors import InvalidRequestError

ADAPTERS = {
    "x": (
        AdapterState(name="a", src="/data/a", options={"rank": "8", "pin": "true"}),
        AdapterState(name="b", src="b", alias="c"),
    ),
    "y": (),
}
GOOD = "name: m\nversions:\n- {version: v1, url: a.zip, batch_size: 4}\n- {file: b.zip}\nweights: {v1: 3, default: 1}\n"


def test_reads_every_document_of_every_file(tmp_path):
    (tmp_path / "b.yaml").write_text(f"{GOOD}---\nname: n\nversions: [{{url: n.onnx}}]\n---\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yml").write_text("name: o\nversions: [{file: o.onnx}]\n")
    (tmp_path / ".hidden.yaml").write_text("nonsense")
    (tmp_path / "notes.txt").write_text("nonsense")
    m, n, o = read(tmp_path)
    assert [item.document.name for item in (m, n, o)] == ["m", "n", "o"]
    assert n.place == f"{tmp_path}/b.yaml, document 2"
    first, second = m.document.versions
    assert (first.exact, first.parameters()) == ("v1", {"batch_size": 4})
    assert second.exact == ""
    assert o.path(o.document.versions[0]) == tmp_path / "deep" / "o.onnx"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: m", "missing required field `versions`"),
        ("name: m\nversions: []", "versions"),
        ("name: m\nversions: [{version: v1}]", "version v1 needs either url or file"),
        ("name: m\nversions: [{url: a, file: b}]", "needs either url or file"),
        ("name: m\nversions: [{url: a, size: 3}]", "unknown field `size` - at `$.versions[0]`"),
        ("name: m\nversions: [{url: a, batch_size: 0}]", "$.versions[0].batch_size"),
        ("name: a b\nversions: [{url: a}]", "$.name"),
        ("name: m\nversions: [{url: a}, {url: b}]", "version default is listed twice"),
        ("name: m\nversions: [{url: a}]\ndefault: v9", "default: no version v9 is listed, only default"),
        ("name: m\nversions: [{url: a}]\nweights: {v9: 1}", "weights: no version v9"),
        ("name: m\nversions: [{url: a}]\nweights: {default: 0}", "one of them must be above 0"),
        ("name: m\nversions: [{url: a}]\nshadows: [v9]", "shadows: no version v9"),
        ("name: m\nversions: [{url: a, min_worker: 1, workers: {m: {cpu: [1, 2]}}}]", "one is enough"),
        ("name: m\nversions: [{url: a, sha256: x}]", "sha256"),
        ("name: m\nversions: [{url: a, adapters: {m: [{name: x}]}}]", "`src` - at `$.versions[0].adapters[...][0]`"),
        ("name: m\nversions: [{url: a, adapters: {m: [{name: x, src: s, rank: 3}]}}]", "unknown field `rank`"),
        ("name: m\nversions: [{url: a, adapters: {m: [{name: x, src: s, options: {a: [1]}}]}}]", "adapters"),
        ("name: m\nversions: [{url: a, adapters: [x]}]", "$.versions[0].adapters"),
        (
            "name: m\nversions: [{url: a, adapters: {l: [{name: x, src: s}, {name: x, src: t}]}}]",
            "version default: adapter x of l is listed twice",
        ),
        ("name: &n m\nversions: [{url: *n}]", "aliases (*name) are not allowed"),
        ("name: !!python/object/apply:os.system [ls]", "no YAML"),
        ("[", "no YAML"),
        ("[1]", "got `array`"),
        ("name: m\nversions: [{url: a}]\n---\nname: m\nversions: [{url: b}]", "document 2: m is in "),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(tmp_path, text, words):
    path = tmp_path / "given.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequestError) as refused:
        read(path)
    assert words in refused.value.message
    assert str(path) in refused.value.message


def test_there_must_be_something_to_read(tmp_path):
    for path, words in ((tmp_path / "nowhere", "no such file or folder"), (tmp_path, "no file with a name that ends in .yaml")):
        with pytest.raises(InvalidRequestError, match=words):
            read(path)
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(InvalidRequestError, match="larger than"):
        read(tmp_path)
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InvalidRequestError, match=str(path)):
            file_digest(path)


def test_what_is_written_is_what_is_read(tmp_path):
    state = NameState(
        name="m",
        versions=(
            VersionState(version="v1", url="a.zip", parameters={"engine": "Python", "min_worker": 2, "trusted": True}),
            VersionState(url="b.zip", sha256="0" * 64, workers={"m": {"cpu": (1, 3)}}, parameters={"max_worker": 7}),
            VersionState(version="v3", url="c.zip", workers={"x": {"cpu": (1, 3)}, "y": {"cpu": (2, 3)}}, adapters=ADAPTERS),
        ),
        weights={"v1": 3, "default": 1},
        shadows=("v3",),
    )
    document = exported(state)
    path = tmp_path / file_name("m")
    path.write_text(to_yaml(document))
    (wanted,) = read(path)
    assert wanted.document == document
    v1, unnamed, v3 = document.versions
    assert (v1.min_worker, v1.max_worker, v1.trusted) == (2, None, True)
    assert (unnamed.version, unnamed.min_worker, unnamed.max_worker) == ("default", 1, 3)
    assert [(spec.name, spec.src, spec.options, spec.alias) for spec in v3.adapters["x"]] == [
        ("a", "/data/a", {"rank": "8", "pin": "true"}, ""),
        ("b", "b", {}, "c"),
    ]
    assert v3.adapters["y"] == ()
    assert v3.workers == {"x": {"cpu": (1, 3)}, "y": {"cpu": (2, 3)}}
