from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convoy
from tests.convoy_client.fake import CHANNELS, HEIGHT, WIDTH, FakeServer

NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, CHANNELS), np.uint8)


def sent_encoded(server: FakeServer) -> Image.Image:
    return Image.open(io.BytesIO(server.requests[-1].images[0].encoded))


@pytest.mark.parametrize("kind", [str, Path])
def test_path_is_read(client, server, tmp_path, kind):
    file = tmp_path / "7.jpg"
    file.write_bytes(b"7")
    assert client.classify(kind(file)).label == "class7"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_sent_as_they_are(client, server, kind):
    assert client.classify(kind(b"4")).label == "class4"
    assert server.requests[-1].images[0].encoded == b"4"


def test_array_of_the_models_size_is_sent_raw(client, server):
    client.classify([NOISE, NOISE])
    for image in server.requests[-1].images:
        pixels = image.pixels
        assert (pixels.height, pixels.width, pixels.channels) == NOISE.shape
        assert pixels.data == NOISE.tobytes()
    assert server.described == 1


def test_array_that_is_not_contiguous_is_sent_in_order(client, server):
    client.classify(NOISE[:, ::-1])
    assert server.requests[-1].images[0].pixels.data == NOISE[:, ::-1].tobytes()


@pytest.mark.parametrize("shape", [(9, 5, 3), (9, 5), (9, 5, 1), (HEIGHT, WIDTH)])
def test_array_of_another_size_is_sent_losslessly(client, server, shape):
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    client.classify(array)
    picture = sent_encoded(server)
    assert picture.format == "PNG"
    assert np.array_equal(np.asarray(picture), array.squeeze())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F"])
def test_picture_is_sent_losslessly(client, server, mode):
    picture = Image.fromarray(NOISE).convert(mode)
    client.classify(picture)
    sent = sent_encoded(server)
    assert sent.mode == mode
    assert np.array_equal(np.asarray(sent), np.asarray(picture))


def test_picture_is_turned_upright(client, server):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "PNG", exif=exif)
    client.classify(Image.open(buffer))
    assert sent_encoded(server).size == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 6, 3), np.float32), "array of float32; pixels are uint8"),
        (np.zeros((4, 6, 4), np.uint8), "array of shape (4, 6, 4)"),
        (np.zeros((0, 6, 3), np.uint8), "array of shape (0, 6, 3)"),
        (np.zeros((2, 4, 6, 3), np.uint8), "give list(array)"),
        ("/no/such.jpg", "No such file"),
        ("nul\0.jpg", "null byte"),
        ("/", "Is a directory"),
    ],
    ids=["float", "channels", "empty", "batch", "missing", "nul", "folder"],
)
def test_what_is_no_image_is_refused_here(client, server, image, text):
    with pytest.raises(convoy.InvalidRequest) as caught:
        client.classify(image)
    assert text in str(caught.value)
    assert server.requests == []


def test_open_file_is_no_sequence_of_images(client, server, tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"1\n2\n")
    no_image = pytest.raises(convoy.InvalidRequest, match="BufferedReader is no image: give a path")
    with open(tmp_path / "1.jpg", "rb") as file, no_image:
        client.classify(file)
    assert server.requests == []


def test_broken_picture_is_refused_here(client, server):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(NOISE, (50, 50, 1))).save(buffer, "PNG")
    broken = Image.open(io.BytesIO(buffer.getvalue()[:-100]))
    with pytest.raises(convoy.InvalidRequest, match="cannot be encoded"):
        client.classify(broken)


def test_file_too_large_to_send_is_refused_here(client, server, tmp_path):
    file = tmp_path / "large.jpg"
    with file.open("wb") as out:
        out.truncate(70 * 2**20)
    with pytest.raises(convoy.InvalidRequest, match=r"large\.jpg: more than 62,914,560"):
        client.classify(file)


def test_largest_images_fit_a_message(client, server):
    large = b"7" + bytes(59 * 2**20)
    assert len(client.classify([b"1", large, b"2"])) == 3
    assert sum(server.sizes) == 3


def test_something_else_in_a_sequence_is_named(client):
    with pytest.raises(convoy.InvalidRequest, match=r"images\[1\]: int is no image"):
        client.classify([b"1", 2])


def test_replaced_model_of_another_size_is_asked_for_again(client, server):
    client.classify(NOISE)
    server.refuse("INVALID_ARGUMENT", "images[0]: 4 x 6 pixels; the model takes 8 x 8")
    with pytest.raises(convoy.InvalidRequest, match="the model takes 8 x 8"):
        client.classify(NOISE)
    client.classify(NOISE)
    assert server.described == 2
