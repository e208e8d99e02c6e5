"""Preprocessing against torchvision's recipe, written out here with Pillow and NumPy, and a study's images."""

import dataclasses
import hashlib

import numpy as np
import pytest
from PIL import Image

from jaxperturb.data import from_arrays, load_dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.order import study_order
from jaxperturb.data.prepared import prepare
from jaxperturb.data.preprocess import to_pixels
from jaxperturb.errors import DataError
from jaxperturb.networks.preprocessing import IMAGENET, Preprocessing

DIGITS = Preprocessing(resize=(64, 64), channels="L", mean=(0.5,), std=(0.25,))


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def torchvision_pixels(image, resize, crop):
    """As torchvision 0.2x does it: functional.resize and functional.center_crop on a Pillow image."""
    img = Image.fromarray(image).convert("RGB")
    w, h = img.size
    short, long = (w, h) if w <= h else (h, w)
    new_short, new_long = resize, int(resize * long / short)
    new_w, new_h = (new_short, new_long) if w <= h else (new_long, new_short)
    img = img.resize((new_w, new_h), Image.Resampling.BILINEAR)
    if crop > new_w or crop > new_h:
        left, top = (crop - new_w) // 2 if crop > new_w else 0, (crop - new_h) // 2 if crop > new_h else 0
        right = (crop - new_w + 1) // 2 if crop > new_w else 0
        bottom = (crop - new_h + 1) // 2 if crop > new_h else 0
        img = Image.fromarray(np.pad(np.asarray(img), ((top, bottom), (left, right), (0, 0))))
        new_w, new_h = img.size
        if (crop, crop) == (new_w, new_h):
            return np.asarray(img)
    top, left = int(round((new_h - crop) / 2.0)), int(round((new_w - crop) / 2.0))  # noqa: RUF046 -- as they write it
    return np.asarray(img.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (257, 500), (224, 224), (60, 91), (256, 259), (259, 256)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 61), (63, 64), (50, 71), (37, 37)])
def test_pixels_equal_torchvision_s_bit_for_bit(size, resize, crop):
    image = picture(*size)
    ours = to_pixels(image, Preprocessing(resize=resize, crop=crop))
    np.testing.assert_array_equal(ours, torchvision_pixels(image, resize, crop))


def test_an_image_smaller_than_the_crop_in_one_direction_is_padded():
    image = picture(20, 33)
    pixels = to_pixels(image, Preprocessing(crop=25))
    assert pixels.shape == (25, 25, 3)
    np.testing.assert_array_equal(pixels[2:22], image[:, 4:29])
    assert not pixels[:2].any()
    assert not pixels[22:].any()


def test_normalisation_is_torch_s():
    image = picture(300, 280)
    prepared = prepare(from_arrays(image[np.newaxis], [0]), IMAGENET)
    pixels = torchvision_pixels(image, 256, 224).astype(np.float64) / 255
    expected = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(prepared.block(0, 1)[0], expected, atol=1e-6, rtol=0)
    assert prepared.block(0, 1).dtype == np.float32


def test_channels():
    image = picture(5, 6)
    rgb = to_pixels(image, Preprocessing())
    np.testing.assert_array_equal(rgb, image)
    np.testing.assert_array_equal(to_pixels(image, Preprocessing(channels="BGR")), image[..., ::-1])
    grey = to_pixels(image, Preprocessing(channels="L"))
    np.testing.assert_allclose(grey[..., 0], image @ np.array([0.299, 0.587, 0.114]), atol=1)
    one = image[..., :1]
    np.testing.assert_array_equal(to_pixels(one, Preprocessing()), np.repeat(one, 3, axis=2))
    np.testing.assert_array_equal(to_pixels(one, Preprocessing(channels="L")), one)
    np.testing.assert_array_equal(to_pixels(np.concatenate([image, one], 2), Preprocessing()), image)
    with pytest.raises(DataError, match="an image has 2 channels; expected 1"):
        to_pixels(image[..., :2], Preprocessing())


def test_a_size_given_as_a_pair_is_height_and_width():
    image = picture(10, 20)
    pixels = to_pixels(image, Preprocessing(resize=(30, 7), interpolation="nearest"))
    np.testing.assert_array_equal(pixels, np.asarray(Image.fromarray(image).resize((7, 30), Image.Resampling.NEAREST)))


def test_digits_are_resized_and_normalised():
    data = load_dataset("digits")
    prepared = prepare(data, DIGITS, 20)
    block = prepared.block(3, 7)
    for place, image in enumerate(block, start=3):
        original = Image.fromarray(data.read(int(prepared.positions[place]))[..., 0])
        expected = np.asarray(original.resize((64, 64), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(image[..., 0], (expected - 0.5) / 0.25, atol=1e-6)


def test_prepared_images_are_in_study_order():
    data = load_dataset("digits")
    prepared = prepare(data, DIGITS)
    assert (len(prepared), prepared.image_shape, prepared.classes) == (500, (64, 64, 1), data.classes)
    np.testing.assert_array_equal(prepared.positions, study_order(data.labels))
    np.testing.assert_array_equal(prepared.labels, data.labels[prepared.positions])
    assert prepared.identifiers == tuple(data.identifiers[p] for p in prepared.positions)


def test_blocks_join_to_the_whole():
    prepared = prepare(load_dataset("digits"), DIGITS, 50)
    whole = prepared.block(0, 50)
    np.testing.assert_array_equal(np.concatenate([prepared.block(0, 17), prepared.block(17, 50)]), whole)
    assert prepared.block(4, 4).shape == (0, 64, 64, 1)


def test_a_limit_takes_a_prefix():
    data = load_dataset("digits")
    few, many = prepare(data, DIGITS, 100), prepare(data, DIGITS, 300)
    np.testing.assert_array_equal(few.positions, many.positions[:100])
    np.testing.assert_array_equal(few.block(90, 100), many.block(90, 100))


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0, "must be at least 1, got 0"),
        (-5, "must be at least 1, got -5"),
        (501, "501 images were asked for, but digits test has 500"),
    ],
)
def test_limits_out_of_range_are_refused(limit, message):
    with pytest.raises(DataError, match=message):
        prepare(load_dataset("digits"), DIGITS, limit)


def chain_by_hand(data, order):
    """The documented chain, written a second time: every link hashes the link before and its 256 images."""
    links, before = [], ""
    for start in range(0, len(order), 256):
        text = before.encode()
        for position in order[start : start + 256].tolist():
            image = data.read(position)
            head = f"{image.dtype} {image.shape} {data.labels[position]} '{data.identifiers[position]}'".encode()
            text += len(head).to_bytes(8, "little") + head + image.nbytes.to_bytes(8, "little") + image.tobytes()
        before = hashlib.sha256(text).hexdigest()
        links.append(before)
    return tuple(links)


def test_the_chain_is_the_documented_one():
    data = load_dataset("digits")
    chain = prepare(data, DIGITS).chain
    assert len(chain) == 2
    assert chain == chain_by_hand(data, study_order(data.labels))
    assert split_fingerprint(data) == chain[-1]


def test_a_shorter_study_has_the_beginning_of_the_chain():
    data = load_dataset("digits")
    whole = prepare(data, DIGITS).chain
    for limit, links in ((1, 1), (200, 1), (256, 1), (257, 2), (499, 2)):
        assert prepare(data, DIGITS, limit).chain == whole[:links]


def test_the_chain_is_computed_once_for_all_copies_of_the_record():
    data, read = load_dataset("digits"), []

    def reading(i):
        read.append(i)
        return data.read(i)

    images = prepare(dataclasses.replace(data, read=reading), DIGITS, 300)
    read.clear()
    whole = prepare(data, DIGITS).chain
    assert images.first(10).chain == whole[:1]
    assert images.chain == dataclasses.replace(images, on_skip=print).chain == images.first(500).chain == whole
    assert sorted(read) == list(range(500))


def test_the_chain_says_nothing_of_the_preprocessing():
    data = load_dataset("digits")
    assert prepare(data, DIGITS, 10).chain == prepare(data, Preprocessing(), 10).chain


def test_the_chain_changes_with_pixel_label_identifier_and_type():
    images, labels = picture(300, 4, 1)[:, np.newaxis], np.arange(300) % 3
    chains = [split_fingerprint(from_arrays(images, labels))]
    touched = images.copy()
    touched[299, 0, 3, 0] ^= 1
    chains.append(split_fingerprint(from_arrays(touched, labels)))
    relabelled = labels.copy()
    relabelled[[0, 1]] = relabelled[[1, 0]]
    chains.append(split_fingerprint(from_arrays(images, relabelled)))
    chains.append(split_fingerprint(from_arrays(images, labels, name="other")))
    chains.append(split_fingerprint(from_arrays(images.astype(np.float32), labels)))
    chains.append(split_fingerprint(from_arrays(images.reshape(300, 2, 2, 1), labels)))
    assert len(set(chains)) == len(chains)


def test_a_network_without_preprocessing_takes_floats_as_they_are():
    images = np.random.default_rng(0).normal(size=(6, 3, 4, 2)).astype(np.float32)
    prepared = prepare(from_arrays(images, [0, 1, 0, 1, 0, 1]), None)
    assert prepared.image_shape == (3, 4, 2)
    np.testing.assert_array_equal(prepared.block(0, 6), images[prepared.positions])


def test_kinds_of_images_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="uint8 images, but the network says no preprocessing"):
        prepare(load_dataset("digits"), None)
    with pytest.raises(DataError, match="float32 images, but the network preprocesses uint8 images"):
        prepare(from_arrays(np.zeros((2, 8, 8)), [0, 1]), DIGITS)


def test_an_image_of_another_shape_is_named():
    data = from_arrays(np.zeros((3, 8, 8), np.uint8), [0, 0, 0])
    sizes = {i: (8, 8 + i, 1) for i in range(3)}
    mixed = type(data)(**{**vars(data), "read": lambda i: np.zeros(sizes[i], np.uint8)})
    with pytest.raises(DataError, match=r"the image arrays/\d has the shape"):
        prepare(mixed, Preprocessing(channels="L")).block(0, 3)
    assert prepare(mixed, Preprocessing(channels="L", crop=6)).block(0, 3).shape == (3, 6, 6, 1)
