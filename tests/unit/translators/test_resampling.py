"""Resizing gives the pixels that PyTorch's `interpolate` gives, which is what DJL's models have seen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from flowyard.engines.djl.translators.resampling import INTERPOLATIONS, resize

MODES = {"NEAREST": "nearest", "BILINEAR": "bilinear", "AREA": "area", "BICUBIC": "bicubic"}
SIZES = [((5, 7), (3, 2)), ((5, 7), (10, 9)), ((8, 8), (28, 28)), ((1, 1), (4, 4)), ((64, 48), (24, 32)), ((3, 9), (9, 3))]


def by_torch(image, height, width, mode):
    tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    options = {"align_corners": False} if mode in ("bilinear", "bicubic") else {}
    return interpolate(tensor, size=(height, width), mode=mode, **options)[0].permute(1, 2, 0).numpy()


def test_every_interpolation_of_djl_is_there():
    assert MODES.keys() == INTERPOLATIONS.keys()


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_floats_are_those_of_torch(name, before, after):
    image = np.random.default_rng(7).random((*before, 3), np.float32)
    height, width = after
    np.testing.assert_allclose(resize(image, width, height, name), by_torch(image, height, width, MODES[name]), atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.sampled_from(sorted(MODES)))
def test_bytes_are_those_of_torch_cut_off(high, wide, height, width, name):
    image = np.random.default_rng(high * 31 + wide).integers(0, 256, (high, wide, 3), np.uint8)
    expected = np.clip(by_torch(image, height, width, MODES[name]), 0, 255)
    got = resize(image, width, height, name)
    assert got.dtype == np.uint8
    # A sum that torch orders otherwise may fall on the other side of a whole number.
    assert np.all((got == np.floor(expected)) | (np.abs(expected - np.rint(expected)) < 1e-3))


def test_an_image_of_one_colour_keeps_it():
    image = np.full((9, 13, 3), 200, np.uint8)
    for name in MODES:
        assert set(resize(image, 5, 6, name).ravel().tolist()) <= {199, 200}


def test_a_strip_is_not_blown_up_on_the_way():
    strip = np.zeros((1, 2_000_000, 1), np.uint8)
    assert resize(strip, 10, 224).shape == (224, 10, 1)
