"""Pictures against Pillow by torchvision's recipe, written out here, on photographs and odd files."""

import csv
import io
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxperturb.data import load_folder
from jaxperturb.data.pictures import decode_picture, file_digest, read_picture
from jaxperturb.data.prepared import prepare
from jaxperturb.data.preprocess import to_pixels
from jaxperturb.errors import ImageError
from jaxperturb.networks.preprocessing import IMAGENET, Preprocessing

BROKEN = {
    "empty.jpg": "is empty",
    "text.jpg": "is not a picture",
    "truncated.jpg": "is damaged .*truncated",
}


def torchvision_loader(path: Path) -> Image.Image:
    """torchvision.datasets.folder.pil_loader."""
    with path.open("rb") as f:
        img = Image.open(f)
        img.info.pop("transparency", None)  # only silences a warning, an error in these tests
        return img.convert("RGB")


def torchvision_crop(img: Image.Image, size: int, crop: int) -> Image.Image:
    """Resize(size) and CenterCrop(crop) of torchvision 0.2x for Pillow images."""
    w, h = img.size
    if w <= h:
        new_w, new_h = size, int(size * h / w)
    else:
        new_w, new_h = int(size * w / h), size
    if (w, h) != (new_w, new_h):
        img = img.resize((new_w, new_h), Image.Resampling.BILINEAR)
    w, h = img.size
    if crop > w or crop > h:
        left = (crop - w) // 2 if crop > w else 0
        top = (crop - h) // 2 if crop > h else 0
        right = (crop - w + 1) // 2 if crop > w else 0
        bottom = (crop - h + 1) // 2 if crop > h else 0
        padded = Image.new("RGB", (w + left + right, h + top + bottom))
        padded.paste(img, (left, top))
        img = padded
        w, h = img.size
        if (crop, crop) == (w, h):
            return img
    top, left = round((h - crop) / 2.0), round((w - crop) / 2.0)
    return img.crop((left, top, left + crop, top + crop))


def check_picture(path: Path, preprocessing: Preprocessing, size: int, crop: int) -> None:
    expected = np.asarray(torchvision_crop(torchvision_loader(path), size, crop))
    np.testing.assert_array_equal(to_pixels(read_picture(path), preprocessing), expected)


def test_photographs_are_torchvision_s_bit_for_bit(shared: Path):
    photos = sorted((shared / "data/photos").iterdir())
    assert len(photos) == 96
    for path in photos:
        check_picture(path, IMAGENET, 256, 224)


def test_odd_pictures_are_torchvision_s_bit_for_bit(shared: Path):
    sound = [path for path in sorted((shared / "data/odd").iterdir()) if path.name not in BROKEN]
    assert len(sound) == 31
    for path in sound:
        check_picture(path, IMAGENET, 256, 224)
        # Smaller than the crop, by an odd and by an even number of pixels.
        check_picture(path, Preprocessing(resize=40, crop=51), 40, 51)
        check_picture(path, Preprocessing(resize=40, crop=60), 40, 60)


def test_normalised_photographs_are_torchvision_s_to_a_millionth(shared: Path, tmp_path: Path):
    for path in sorted((shared / "data/photos").iterdir())[:12]:
        (tmp_path / path.name.partition("_")[0]).mkdir()
        shutil.copy(path, tmp_path / path.name.partition("_")[0])
    images = prepare(load_folder(tmp_path), IMAGENET)
    block = images.block(0, 12)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for place, identifier in enumerate(images.identifiers):
        pixels = torchvision_crop(torchvision_loader(tmp_path / identifier), 256, 224)
        expected = (np.asarray(pixels, np.float64) / 255 - mean) / std
        np.testing.assert_allclose(block[place], expected, atol=1e-6, rtol=0)


def test_one_channel_is_grayscale_before_the_resize(shared: Path):
    path = shared / "data/odd/rgb.png"
    grey = Image.open(path).convert("RGB").convert("L").resize((50, 40), Image.Resampling.BILINEAR)
    ours = to_pixels(read_picture(path), Preprocessing(resize=(40, 50), channels="L"))
    np.testing.assert_array_equal(ours[..., 0], np.asarray(grey))


def test_the_orientation_that_a_camera_noted_is_ignored(shared: Path):
    # The eight are stored turned, so that a viewer which minds the note shows them alike.
    assert read_picture(shared / "data/odd/exif1.jpg").shape == (64, 96, 3)
    assert read_picture(shared / "data/odd/exif6.jpg").shape == (96, 64, 3)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_one_clear_line(shared: Path, name: str):
    with pytest.raises(ImageError, match=BROKEN[name]) as caught:
        read_picture(shared / "data/odd" / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_every_kind_cut_short_or_hurt_is_an_image_error_or_a_picture(kind: str):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    whole = encoded(picture, kind)
    assert decode_picture(whole, "x").shape == (20, 30, 3)
    rng = np.random.default_rng(1)
    for cut in [1, 5, 20, len(whole) // 3, len(whole) // 2]:
        with pytest.raises(ImageError, match="^x "):
            decode_picture(whole[:cut], "x")
    for _ in range(40):
        hurt = bytearray(whole)
        for place in rng.integers(0, len(whole), 6):
            hurt[place] = rng.integers(256)
        try:
            assert decode_picture(bytes(hurt), "x").shape[2] == 3
        except ImageError as error:
            assert "\n" not in str(error)


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    pixels = decode_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "x")
    np.testing.assert_array_equal(pixels, np.broadcast_to([255, 0, 0], (4, 4, 3)))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 14_000, 2**20])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_its_memory_is_taken(side: int):
    with pytest.raises(ImageError, match=r"bomb has more than 89,478,485 pixels"):
        decode_picture(png_header(side, side), "bomb")


def test_a_decompression_bomb_is_refused_where_warnings_are_errors():
    with pytest.raises(ImageError, match="bomb has more than"):
        decode_picture(png_header(10_000, 10_000), "bomb")


def test_a_picture_that_would_be_too_large_once_resized_is_refused():
    strip = np.zeros((1, 40_000, 3), np.uint8)
    with pytest.raises(ImageError, match="40000 by 1 pixels, too elongated"):
        to_pixels(strip, Preprocessing(resize=256, crop=224))


def test_postscript_starts_no_program():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="is not a picture"):
        decode_picture(eps, "x.jpg")


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path):
    for read in (read_picture, file_digest):
        with pytest.raises(ImageError, match=r"a\.jpg is gone"):
            read(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_picture(tmp_path)


def test_reading_imports_no_tensorflow(tmp_path: Path, shared: Path):
    labels = tmp_path / "val.txt"
    with (shared / "data/photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels.write_text("".join(f"{row['file']} {row['class_index']}\n" for row in rows))
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
    code = f"""
import sys
from jaxperturb.data import from_batches, load_dataset
from jaxperturb.data.prepared import prepare
from jaxperturb.networks.preprocessing import IMAGENET
sets = [load_dataset("digits"), load_dataset("npz:{tmp_path}/a.npz")]
sets.append(load_dataset("folder:{shared}/data/photos", labels_file="{labels}"))
sets.append(from_batches([([[[0.0]], [[1.0]]], [0, 1])]))
for data in sets[:3]:
    prepare(data, IMAGENET, 2).block(0, 2)
found = {{"tensorflow", "torch", "tensorflow_datasets"}} & {{name.split(".")[0] for name in sys.modules}}
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)
