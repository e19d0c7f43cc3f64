"""The `ensemble` built-in: the mean, the weighted mean or the majority of several values of one kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowyard.schemas.errors import InvalidInputError
from flowyard.schemas.values import Value

_LABEL_KEYS = ("className", "label", "class")
_SCORE_KEYS = ("probability", "score")
Scores = dict[str, float]


def combine(method: str, weights: list[float] | None, args: list[Value]) -> Value:
    """Combines the members.

    Args:
        method: `mean` or `vote`.
        weights: One per member; equal ones when absent.
        args: The members, or one list of them. Numbers; tensors of one shape, also as nested lists; mappings of label to
            score; or lists of classifications, `{"className" | "label" | "class": ..., "probability" | "score": ...}`.

    Returns:
        For `mean` a value of the members' kind; labels that a member lacks count 0. For `vote` the winner: the number or
        string itself, the top label of scores, element by element for tensors (of floats: of the index of the largest on
        the last axis). The first of equals wins.

    Raises:
        InvalidInputError: The members are not of one kind, or their number is not that of the weights.
    """
    if method == "mean" and weights is None and _are_alike(args):
        return _plain_mean(args)
    members = args[0] if len(args) == 1 and isinstance(args[0], list) else args
    if not members:
        raise InvalidInputError("ensemble of nothing")
    if weights is None:
        weights = [1.0] * len(members)
    if len(weights) != len(members):
        raise InvalidInputError(f"ensemble: {len(weights)} weights for {len(members)} members")
    with np.errstate(all="ignore"):
        return _vote(members, weights) if method == "vote" else _mean(members, weights)


def _are_alike(args: list[Value]) -> bool:
    """Whether all members are tensors of floats, of one dtype and shape: the usual case."""
    first = args[0] if args else None
    if type(first) is not np.ndarray or first.dtype.kind != "f":
        return False
    return all(type(arg) is np.ndarray and arg.dtype == first.dtype and arg.shape == first.shape for arg in args[1:])


def _plain_mean(arrays: list[Value]) -> Value:
    share = 1 / len(arrays)
    with np.errstate(all="ignore"):
        mean = arrays[0] * share
        for array in arrays[1:]:
            mean = mean + array * share
    return np.asarray(mean)


def _mean(members: list[Value], weights: list[float]) -> Value:
    total = sum(weights)
    shares = [weight / total for weight in weights]
    if all(type(member) is np.ndarray for member in members):
        return _mean_tensor(members, shares)
    if all(_is_number(member) for member in members):
        return float(sum(share * member for share, member in zip(shares, members, strict=True)))
    if all(isinstance(member, dict) for member in members):
        return _mean_scores([_checked_scores(member) for member in members], shares)
    if all(_is_classifications(member) for member in members):
        scores = _mean_scores([_scores(member) for member in members], shares)
        return _classifications(scores, members[0][0])
    return _mean_tensor(members, shares)


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_scores(member: dict[str, Value]) -> Scores:
    if not all(_is_number(score) for score in member.values()):
        raise InvalidInputError("ensemble: a mapping whose values are not all numbers")
    return member


def _mean_scores(members: list[Scores], shares: list[float]) -> Scores:
    means: Scores = {}
    for member, share in zip(members, shares, strict=True):
        for label, score in member.items():
            means[label] = means.get(label, 0.0) + share * score
    return means


def _is_classifications(value: Value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _key(item: dict[str, Value], keys: tuple[str, ...]) -> str:
    for key in keys:
        if key in item:
            return key
    raise InvalidInputError(f"ensemble: a classification without {' or '.join(keys)}")


def _scores(member: list[dict[str, Value]]) -> Scores:
    found: Scores = {}
    for item in member:
        label, score = item[_key(item, _LABEL_KEYS)], item[_key(item, _SCORE_KEYS)]
        if not isinstance(label, str) or not _is_number(score):
            raise InvalidInputError("ensemble: a classification needs a string as label and a number as score")
        found[label] = score
    return found


def _classifications(scores: Scores, like: dict[str, Value]) -> list[dict[str, Value]]:
    label_key, score_key = _key(like, _LABEL_KEYS), _key(like, _SCORE_KEYS)
    best_first = sorted(scores.items(), key=lambda pair: -pair[1])
    return [{label_key: label, score_key: score} for label, score in best_first]


def _arrays(members: list[Value]) -> list[np.ndarray[Any, Any]]:
    try:
        arrays = [np.asarray(member) for member in members]
    except (ValueError, OverflowError):
        raise InvalidInputError("ensemble: lists that are no tensors") from None
    if not all(array.dtype.kind in "biufc" for array in arrays):
        kinds = ", ".join(dict.fromkeys(type(member).__name__ for member in members))
        raise InvalidInputError(f"ensemble takes numbers, tensors, scores or classifications of one kind, not {kinds}")
    if any(array.shape != arrays[0].shape for array in arrays):
        shapes = ", ".join(dict.fromkeys(str(list(array.shape)) for array in arrays))
        raise InvalidInputError(f"ensemble takes tensors of one shape, not {shapes}")
    return arrays


def _as_given(array: Any, members: list[Value]) -> Value:
    """An array, or nested lists when all members were lists."""
    if any(isinstance(member, np.ndarray) for member in members):
        return np.asarray(array)
    return np.asarray(array).tolist()


def _mean_tensor(members: list[Value], shares: list[float]) -> Value:
    arrays = _arrays(members)
    if any(array.dtype.kind == "b" for array in arrays):
        raise InvalidInputError("ensemble: booleans have no mean, they can vote")
    mean = arrays[0] * shares[0]
    for array, share in zip(arrays[1:], shares[1:], strict=True):
        mean = mean + array * share
    return _as_given(mean, members)


def _vote(members: list[Value], weights: list[float]) -> Value:
    if all(isinstance(member, (str, int, float, bool)) or member is None for member in members):
        return _winner(members, weights)
    if all(isinstance(member, dict) for member in members):
        return _winner([_top(_checked_scores(member)) for member in members], weights)
    if all(_is_classifications(member) for member in members):
        return _winner([_top(_scores(member)) for member in members], weights)
    return _as_given(_vote_tensor(_arrays(members), weights), members)


def _top(scores: Scores) -> str:
    if not scores:
        raise InvalidInputError("ensemble: an empty mapping has no top label")
    return max(scores, key=lambda label: scores[label])


def _winner(votes: list[Value], weights: list[float]) -> Value:
    counts: dict[Value, float] = {}
    for vote, weight in zip(votes, weights, strict=True):
        counts[vote] = counts.get(vote, 0.0) + weight
    return max(counts, key=lambda vote: counts[vote])


def _vote_tensor(arrays: list[np.ndarray[Any, Any]], weights: list[float]) -> Any:
    if any(array.dtype.kind == "c" for array in arrays):
        raise InvalidInputError("ensemble: complex numbers cannot vote")
    if any(array.dtype.kind == "f" for array in arrays):
        if arrays[0].ndim == 0 or arrays[0].shape[-1] == 0:
            raise InvalidInputError("ensemble: scores without an axis of classes cannot vote")
        arrays = [array.argmax(axis=-1) for array in arrays]
    best, most = arrays[0], np.full(arrays[0].shape, -1.0)
    for candidate in arrays:
        votes = np.sum([weight * (array == candidate) for array, weight in zip(arrays, weights, strict=True)], axis=0)
        better = votes > most
        best, most = np.where(better, candidate, best), np.where(better, votes, most)
    return best
