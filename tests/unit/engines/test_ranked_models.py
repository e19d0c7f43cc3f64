"""What the first rank waits for, and what of streams that nobody wants any more."""

import pytest

from flowyard.engines.base import Call, Stream
from flowyard.engines.ranks import FollowingModel, RankedModel
from flowyard.schemas.errors import HandlerError
from flowyard.schemas.frames import Sample

CALLS = [Call("", ["x"]), Call("", ["y"])]


class Pieces(Stream):
    """Pieces, the last of which may be an error; it notes what has been taken."""

    def __init__(self, *pieces):
        self.left = list(pieces)

    def __next__(self):
        if not self.left:
            raise StopIteration
        piece = self.left.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self):
        raise AssertionError("a stream was ended before the other ranks have computed it")


class Model:
    """Gives what it is told to give."""

    signature = None

    def __init__(self, log, outcomes):
        self.log, self.outcomes, self.is_unloaded = log, outcomes, False

    def predict(self, batch):
        self.log.append("computed")
        return self.outcomes

    def take_metrics(self):
        return [Sample("own", "Count", "counter", 1.0)]

    def unload(self):
        self.is_unloaded = True


class Followers:
    """Notes what the first rank does with the others."""

    pids = (7,)

    def __init__(self, log):
        self.log = log

    def begin(self, batch):
        self.log.append("begun")

    def settled(self):
        self.log.append("settled")

    def take_metrics(self):
        return [Sample("other", "Count", "counter", 1.0)]


def ranked(outcomes, *, leads=False):
    log = []
    model = Model(log, outcomes)
    return log, model, RankedModel(model, Followers(log), leads=leads)


def test_a_batch_is_done_when_all_ranks_are():
    log, model, first = ranked([1, 2])
    assert first.predict(CALLS) == [1, 2]
    assert log == ["begun", "computed", "settled"]
    assert [sample.name for sample in first.take_metrics()] == ["own", "other"]
    first.unload()
    assert model.is_unloaded


def test_in_a_pipeline_the_others_are_not_asked():
    log, _, first = ranked([1, 2], leads=True)
    assert first.predict(CALLS) == [1, 2]
    assert log == ["computed"]


@pytest.mark.parametrize("last", ["c", HandlerError("late")])
def test_a_stream_goes_to_its_end_though_nobody_wants_the_rest(last):
    pieces = Pieces("a", "b", last)
    log, _, first = ranked([pieces, 2])
    stream, other = first.predict(CALLS)
    assert (next(stream), other, log) == ("a", 2, ["begun", "computed"])
    stream.close()
    assert not pieces.left


def test_a_stream_is_collected_as_its_own_kind_is():
    stream, _ = ranked([Pieces("a", "b"), 2])[2].predict(CALLS)
    assert stream.collect() == ["a", "b"]


def test_other_ranks_compute_all_and_tell_nothing():
    pieces, failing = Pieces("a", "b"), Pieces("a", HandlerError("no"))
    model = Model([], [pieces, failing])
    following = FollowingModel(model)
    assert following.predict(CALLS) == [None, None]
    assert (pieces.left, failing.left) == ([], [])
    assert [sample.name for sample in following.take_metrics()] == ["own"]
    following.unload()
    assert model.is_unloaded
