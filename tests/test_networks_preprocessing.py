"""The record of what is done to an image."""

import json

import pytest

from jaxperturb.errors import CheckpointError, NetworkError
from jaxperturb.networks.preprocessing import IMAGENET, Preprocessing, parse_preprocessing


@pytest.mark.parametrize(
    ("record", "shape"),
    [
        (IMAGENET, (224, 224, 3)),
        (Preprocessing(), None),
        (Preprocessing(resize=256), None),
        (Preprocessing(resize=(64, 48), channels="L"), (64, 48, 1)),
        (Preprocessing(crop=227, channels="BGR"), (227, 227, 3)),
    ],
)
def test_image_shape_is_told_where_it_is_fixed(record, shape):
    assert record.image_shape == shape


@pytest.mark.parametrize(
    "record",
    [
        IMAGENET,
        Preprocessing(),
        Preprocessing(resize=(64, 64), channels="L", mean=(0.3,), std=(0.1,), interpolation="bicubic", scale=1.0),
    ],
)
def test_json_gives_the_record_back(record):
    assert Preprocessing.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_fields_left_out_take_their_defaults():
    assert Preprocessing.from_json({"crop": 32}) == Preprocessing(crop=32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": 0}, "resize must be"),
        ({"resize": 1.5}, "resize must be"),
        ({"resize": True}, "resize must be"),
        ({"resize": (1, 2, 3)}, "resize must be"),
        ({"resize": (1, "2")}, "resize must be"),
        ({"crop": -1}, "crop must be"),
        ({"interpolation": "lanczos"}, "interpolation must be one of nearest, bilinear, bicubic"),
        ({"channels": "RGBA"}, "channels must be one of RGB, BGR, L"),
        ({"mean": (0.0, 0.0)}, "mean must hold 1 or 3 numbers"),
        ({"mean": (0.1, 0.2, 0.3), "channels": "L"}, "mean must hold 1 or 1 numbers"),
        ({"mean": ("0",)}, "mean must be finite numbers"),
        ({"mean": (float("nan"),)}, "mean must be finite numbers"),
        ({"std": (0.0,)}, "std must not be 0"),
        ({"std": (1.0, 1.0, float("inf"))}, "std must be finite numbers"),
        ({"scale": "1"}, "scale must be finite numbers"),
    ],
)
def test_what_cannot_be_applied_is_refused(values, message):
    with pytest.raises(CheckpointError, match=f"preprocessing: {message}"):
        Preprocessing.from_json({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})


def test_a_bad_record_made_in_python_is_a_network_error():
    with pytest.raises(NetworkError, match="crop must be a side in pixels, got 0"):
        Preprocessing(crop=0)


@pytest.mark.parametrize("values", [None, 3, ["resize"], "resize"])
def test_json_must_be_a_table(values):
    with pytest.raises(CheckpointError, match="must be a table"):
        Preprocessing.from_json(values)


def test_json_with_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(
        CheckpointError, match="unknown preprocessing field 'interpolaton'; did you mean 'interpolation'"
    ):
        Preprocessing.from_json({"interpolaton": "bilinear"})


OWN = Preprocessing(resize=256, crop=227, channels="BGR", mean=(104.0, 117.0, 123.0), scale=1.0)


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        ("imagenet", OWN, IMAGENET),
        ("none", OWN, None),
        ("crop=224", None, Preprocessing(crop=224)),
        ("crop=100", OWN, Preprocessing(256, 100, "bilinear", "BGR", (104.0, 117.0, 123.0), (1.0,), 1.0)),
        (
            "imagenet; crop=64 ;resize=64x48",
            OWN,
            Preprocessing((64, 48), 64, "bilinear", "RGB", IMAGENET.mean, IMAGENET.std),
        ),
        ("none;crop=9", OWN, Preprocessing(crop=9)),
        (
            "resize=none;crop=none;mean=0.5;std=0.1,0.2,0.3;scale=1;channels=RGB;interpolation=bicubic",
            OWN,
            Preprocessing(None, None, "bicubic", "RGB", (0.5,), (0.1, 0.2, 0.3), 1.0),
        ),
    ],
)
def test_a_preprocessing_is_read_from_text(text, own, expected):
    assert parse_preprocessing(text, own) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagent", r"expected imagenet, none or fields such as crop=224, got 'imagent'; did you mean 'imagenet'"),
        ("imagenet;corp=2", "unknown field 'corp=2'; did you mean 'crop'"),
        ("imagenet;224", "unknown field '224'"),
        ("crop=big", "crop cannot be 'big'"),
        ("resize=3x", "resize cannot be '3x'"),
        ("mean=1,2", "mean must hold 1 or 3 numbers"),
        ("crop=0", "crop must be a side in pixels, got 0"),
        ("std=0", "std must not be 0"),
        ("interpolation=lanczos", "interpolation must be one of"),
    ],
)
def test_a_text_that_is_no_preprocessing_is_one_line(text, message):
    with pytest.raises(NetworkError, match=message) as caught:
        parse_preprocessing(text, None)
    assert "\n" not in str(caught.value)
