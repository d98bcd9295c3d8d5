import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edged.errors import REASONS, PictureError
from edged.media.imaging import ImageInput, Limits, decode, find_pictures
from tests.edged.making import TIMES, encode, good, png_header

GREY8 = ImageInput(8, 8, 1)
RGB8 = ImageInput(8, 8, 3)


def flat(mode: str, value: object) -> Image.Image:
    return Image.new(mode, (8, 8), value)


def sixteen(value: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, np.uint16))


def palette() -> Image.Image:
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return image


def lab() -> Image.Image:
    return Image.frombytes("LAB", (8, 8), bytes([128, 0, 0]) * 64)


def refusal(data: bytes, spec: ImageInput = GREY8, limits: Limits = Limits()) -> PictureError:  # noqa: B008
    with pytest.raises(PictureError) as caught:
        decode(data, spec, limits)
    return caught.value


# The rule of each mode, one golden value each: (mode in the file, bytes, grey value, RGB value).
MODES = [
    ("1", encode(flat("1", 1)), 255, (255, 255, 255)),
    ("1", encode(flat("1", 0)), 0, (0, 0, 0)),
    ("L", encode(flat("L", 77)), 77, (77, 77, 77)),
    ("P", encode(palette()), 124, (10, 200, 30)),
    ("P", encode(palette(), transparency=1), 0, (0, 0, 0)),
    ("LA", encode(flat("LA", (200, 128))), 100, (100, 100, 100)),
    ("RGBA", encode(flat("RGBA", (200, 100, 50, 128))), 62, (100, 50, 25)),
    ("RGBA", encode(flat("RGBA", (200, 100, 50, 0))), 0, (0, 0, 0)),
    ("RGB", encode(flat("RGB", (255, 0, 0))), 76, (255, 0, 0)),
    ("RGB", encode(flat("RGB", (0, 255, 0))), 150, (0, 255, 0)),
    ("RGB", encode(flat("RGB", (0, 0, 255))), 29, (0, 0, 255)),
    ("CMYK", encode(flat("CMYK", (0, 255, 0, 0)), "TIFF"), 105, (255, 0, 255)),
    ("I;16", encode(sixteen(32768)), 128, (128, 128, 128)),
    ("I;16", encode(sixteen(65535)), 255, (255, 255, 255)),
    ("I;16", encode(sixteen(128)), 0, (0, 0, 0)),
    ("I;16", encode(sixteen(129)), 1, (1, 1, 1)),
    ("I;16", encode(sixteen(1000), "TIFF"), 4, (4, 4, 4)),
]


@pytest.mark.parametrize(("mode", "data", "grey", "colour"), MODES)
def test_each_mode_has_one_rule(mode: str, data: bytes, grey: int, colour: tuple[int, int, int]) -> None:
    for spec, value in ((GREY8, (grey,)), (RGB8, colour)):
        decoded = decode(data, spec, Limits())
        assert decoded.mode == mode
        assert (decoded.width, decoded.height, decoded.pages) == (8, 8, 1)
        assert decoded.pixels.dtype == np.uint8
        assert decoded.pixels.shape == spec.shape
        assert (decoded.pixels == np.array(value, np.uint8)).all(), decoded.pixels[0, 0]


def test_sixteen_bit_in_big_endian_tiff() -> None:
    pixels = np.full((8, 8), 40_000, ">u2")
    image = Image.frombytes("I;16B", (8, 8), pixels.tobytes())
    decoded = decode(encode(image, "TIFF"), GREY8, Limits())
    assert decoded.mode in {"I;16", "I;16B"}
    assert (decoded.pixels == round(40_000 * 255 / 65535)).all()


def test_sixteen_bit_is_never_stretched_to_its_own_range() -> None:
    ramp = np.linspace(1000, 2000, 64).reshape(8, 8).astype(np.uint16)
    pixels = decode(encode(Image.fromarray(ramp)), GREY8, Limits()).pixels[..., 0]
    assert np.array_equal(pixels, np.round(ramp * 255.0 / 65535).astype(np.uint8))
    assert (pixels.min(), pixels.max()) == (4, 8)


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(np.full((8, 8), 5, np.int32)), "TIFF"),
        encode(Image.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
        encode(lab(), "TIFF"),
    ],
    ids=["I", "F", "LAB"],
)
def test_modes_without_a_scale_are_refused(data: bytes) -> None:
    assert refusal(data).reason == "unsupported"
    assert refusal(data, RGB8).reason == "unsupported"


UPRIGHT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
TURNED = {
    1: UPRIGHT,
    2: np.fliplr(UPRIGHT),
    3: np.rot90(UPRIGHT, 2),
    4: np.flipud(UPRIGHT),
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, -1),
    7: np.rot90(UPRIGHT, 2).T,
    8: np.rot90(UPRIGHT, 1),
}


@pytest.mark.parametrize("orientation", [*TURNED, 0, 9])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(UPRIGHT), file_format, exif=exif)
    assert np.array_equal(decode(data, GREY8, Limits()).pixels[..., 0], TURNED.get(orientation, UPRIGHT))


@pytest.mark.parametrize("orientation", range(10))
def test_sizes_are_those_of_the_picture_as_one_looks_at_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(Image.new("L", (32, 16)), exif=exif), GREY8, Limits())
    assert (decoded.width, decoded.height) == ((16, 32) if 5 <= orientation <= 8 else (32, 16))


def test_exif_turns_before_the_aspect_is_used() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = encode(Image.new("L", (32, 16), 255), exif=exif)
    pixels = decode(wide, ImageInput(8, 8, 1, resize="pad"), Limits()).pixels[..., 0]
    assert (pixels[:, 2:6] == 255).all()
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 6:] == 0).all()


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    data = encode(Image.fromarray(UPRIGHT), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(decode(data, GREY8, Limits()).pixels[..., 0], UPRIGHT)


def test_first_page_of_several() -> None:
    pages = [flat("L", value) for value in (10, 20, 30)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    decoded = decode(data, GREY8, Limits())
    assert decoded.pages == 2
    assert (decoded.pixels == 10).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "WEBP", "JPEG"])
def test_formats(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode(encode(flat("RGB", (90, 90, 90)), file_format, **options), GREY8, Limits())
    assert (decoded.pixels == 90).all()


@pytest.mark.parametrize("file_format", ["GIF", "PPM", "ICO", "PDF", "TGA"])
def test_other_formats_are_not_even_tried(file_format: str) -> None:
    assert refusal(encode(flat("RGB", (1, 2, 3)), file_format)).reason == "undecodable"


# Hostile and broken files.


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_truncated(share: float, file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    error = refusal(data[: int(len(data) * share)])
    assert error.reason == "undecodable"
    assert str(error)


def test_text_and_nothing() -> None:
    assert refusal(b"not a picture at all\n").reason == "undecodable"
    assert refusal(b"").reason == "empty"


def test_too_many_bytes() -> None:
    data = good()
    assert refusal(data, limits=Limits(max_bytes=len(data) - 1)).reason == "file_too_large"
    assert decode(data, GREY8, Limits(max_bytes=len(data))).width == 32


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    error = refusal(png_header(20_000, 20_000))
    assert error.reason == "picture_too_large"
    assert str(error) == (
        "20000x20000 pixels are more than limits.max_pixels = 100000000, which a daemon's configuration alone raises"
    )
    # 30,000 x 30,000 is above Pillow's own limits too; ours alone decides.
    assert refusal(png_header(30_000, 30_000), limits=Limits(max_pixels=10**9)).reason == "undecodable"
    data = encode(Image.new("L", (10, 10), 7))
    assert refusal(data, limits=Limits(max_pixels=99)).reason == "picture_too_large"
    assert (decode(data, GREY8, Limits(max_pixels=100)).pixels == 7).all()


@settings(max_examples=150 * TIMES, derandomize=TIMES == 1, deadline=None)
@given(st.data())
def test_any_bytes_are_pixels_or_a_known_reason(data: st.DataObject) -> None:
    formats = ["PNG", "JPEG", "TIFF", "BMP", "WEBP"]
    original = bytearray(encode(Image.fromarray(UPRIGHT), data.draw(st.sampled_from(formats))))
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    hostile = data.draw(st.one_of(st.just(bytes(original)), st.binary(max_size=200)))
    reason = shape = None
    try:
        shape = decode(hostile, GREY8, Limits(max_pixels=10_000)).pixels.shape
    except PictureError as error:
        reason = error.reason
    assert shape == (8, 8, 1) or reason in REASONS


# Size.


def test_stretch_pad_and_crop() -> None:
    wide = np.zeros((16, 32), np.uint8)
    wide[:, 8:24] = 200  # the middle square is 200, the sides are black
    data = encode(Image.fromarray(wide))
    stretched = decode(data, ImageInput(16, 16, 1, filter="box"), Limits()).pixels[..., 0]
    assert (stretched[:, 4:12] == 200).all()
    assert (stretched[:, :4] == 0).all()
    cropped = decode(data, ImageInput(16, 16, 1, resize="crop"), Limits()).pixels[..., 0]
    assert (cropped == 200).all()
    padded = decode(data, ImageInput(16, 16, 1, resize="pad", filter="box"), Limits()).pixels[..., 0]
    assert (padded[4:12, 4:12] == 200).all()
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (33, 7)])
def test_every_aspect_gives_the_models_size(resize: str, size: tuple[int, int]) -> None:
    spec = ImageInput(24, 16, 3, resize=resize)  # type: ignore[arg-type]
    decoded = decode(encode(Image.new("L", size, 9)), spec, Limits())
    assert decoded.pixels.shape == (24, 16, 3)
    assert (decoded.width, decoded.height) == size


@pytest.mark.parametrize("name", ["box", "bilinear", "bicubic", "lanczos"])
def test_shrinking_is_antialiased(name: str) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = decode(encode(Image.fromarray(board)), ImageInput(8, 8, 1, filter=name), Limits()).pixels  # type: ignore[arg-type]
    assert np.abs(pixels.astype(int) - 128).max() <= 2


def test_a_large_jpeg_is_what_it_is_when_decoded_in_full() -> None:
    ramp = np.add.outer(np.linspace(0, 120, 1024), np.linspace(0, 120, 1024)).astype(np.uint8)
    data = encode(Image.fromarray(ramp), "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(data)).resize((16, 16), Image.Resampling.BILINEAR), dtype=int)
    decoded = decode(data, ImageInput(16, 16, 1), Limits())
    assert (decoded.width, decoded.height) == (1024, 1024)
    assert np.abs(decoded.pixels[..., 0] - full).max() <= 1


@pytest.mark.parametrize("size", [(7, 8), (8, 4097), (0, 0), (-8, 8)])
def test_a_models_size_is_bounded(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="8 to 4096"):
        ImageInput(*size)


# Finding.


def test_find_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.Tiff", "sub/deeper/d.webp", "png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.png").write_bytes(b"x")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")
    found = [str(path.relative_to(tmp_path / "in")) for path in find_pictures(tmp_path / "in")]
    assert found == ["a.JPG", "b.png", "sub/c.Tiff", "sub/deeper/d.webp"]
    assert list(find_pictures(tmp_path / "in" / "notes.txt")) == [tmp_path / "in" / "notes.txt"]
    assert [path.name for path in find_pictures(tmp_path / "in", ["*.txt"])] == ["notes.txt"]


def test_a_part_is_looked_at_alone_at_any_scale_of_the_picture():
    pixels = np.zeros((40, 80), np.uint8)
    pixels[10:30, 20:40] = 200
    spec = ImageInput(8, 8, 1, roi=(20, 10, 20, 20), source=(80, 40))
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).resize((160, 80), Image.Resampling.NEAREST)):
        decoded = decode(encode(image), spec, Limits())
        assert (decoded.pixels == 200).all()
        assert (decoded.width, decoded.height) == image.size


def test_a_picture_that_has_nothing_of_a_part_of_its_source_is_refused():
    image = encode(Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)))
    for roi in ((20, 0, 5, 5), (0, 10, 5, 5)):
        with pytest.raises(PictureError, match="20x10 px have nothing of the part to look at, roi = ") as caught:
            decode(image, ImageInput(8, 8, 1, roi=roi), Limits())
        assert caught.value.reason == "unsupported"
    assert (
        decode(image, ImageInput(8, 8, 1, roi=(15, 5, 50, 50)), Limits()).pixels.min() >= 5 * 20 + 15
    )  # what is there


def test_a_photograph_is_decoded_fine_enough_for_a_small_part():
    pixels = np.random.default_rng(0).integers(0, 255, (1600, 1600), np.uint8)
    data = encode(Image.fromarray(pixels), "JPEG", quality=95)
    spec = ImageInput(32, 32, 1, roi=(800, 800, 32, 32), source=(1600, 1600))
    whole = decode(data, ImageInput(1600, 1600, 1), Limits()).pixels
    assert (decode(data, spec, Limits()).pixels == whole[800:832, 800:832]).all()
