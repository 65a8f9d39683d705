from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import pytest

import convoy
from convoy.cli import main
from convoy.commands.paths import expand
from tests.convoy_client.fake import FakeServer


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Path:
    """A folder to stand in, with images three folders deep, and the server in the environment."""
    for name, content in {
        "photos/1.jpg": b"1",
        "photos/2.PNG": b"2",
        "photos/more/deep/3.webp": b"3",
        "photos/notes.txt": b"no image",
        "photos/.hidden.jpg": b"4",
        "photos/.thumbnails/5.jpg": b"5",
        "bad.jpg": b"bad",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOY_SERVER", server.target)
    return tmp_path


def test_table_is_aligned(photos, capsys):
    assert main(["classify", "photos"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "file                     label   probability  runner-up",
        "photos/1.jpg             class1  0.5000       class2 0.2500",
        "photos/2.PNG             class2  0.5000       class3 0.2500",
        "photos/more/deep/3.webp  class3  0.5000       class4 0.2500",
    ]


def test_model_version_as_it_may_be_typed(photos, server):
    for option in ("--model-version", "--version"):
        assert main(["classify", option, "3", "photos/1.jpg"]) == 0
    assert [request.version for request in server.requests] == [3, 3]


def test_priority(photos, server):
    for options in ([], ["--priority", "2"]):
        assert main(["classify", *options, "photos/1.jpg"]) == 0
    assert [request.priority for request in server.requests] == [0, 2]


def test_failed_image_has_its_row_and_sets_the_exit_code(photos, capsys):
    assert main(["classify", "bad.jpg", "photos/1.jpg", "missing.jpg"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        "bad.jpg       error: not an image",
        "photos/1.jpg  class1  0.5000       class2 0.2500",
        "missing.jpg   error: No such file or directory",
    ]
    assert err == "convoy: 2 of 3 images failed\n"


def test_json_lines(photos, capsys):
    assert main(["classify", "--json", "--top-k", "1", "photos/1.jpg", "bad.jpg"]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "file": "photos/1.jpg",
        "label": "class1",
        "probability": 0.5,
        "classes": [{"index": 1, "label": "class1", "probability": 0.5}],
        "model": "fake",
        "version": 3,
    }
    assert second == {"file": "bad.jpg", "error": "not an image"}


def test_csv(photos, capsys):
    assert main(["classify", "--csv", "photos/1.jpg", "bad.jpg"]) == 1
    first, second = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert first == {
        "file": "photos/1.jpg",
        "label": "class1",
        "probability": "0.500000",
        "label_2": "class2",
        "probability_2": "0.250000",
        "model": "fake",
        "version": "3",
        "error": "",
    }
    assert (second["file"], second["label"], second["error"]) == ("bad.jpg", "", "not an image")


def test_csv_of_names_with_line_ends(photos, capsys):
    names = ["a\rb.jpg", "a\nb.jpg", 'a",b.jpg']
    for name in names:
        Path(name).write_bytes(b"1")
    assert main(["classify", "--csv", *names]) == 0
    text = capsys.readouterr().out
    assert [row["file"] for row in csv.DictReader(io.StringIO(text, newline=""))] == names
    assert "\r\n" not in text


def test_model_of_one_class(photos, server, capsys):
    server.model.labels[:] = ["class0"]
    assert main(["classify", "--csv", "photos/1.jpg"]) == 0
    assert [request.top_k for request in server.requests] == [1]


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("photos", ["photos/1.jpg", "photos/2.PNG", "photos/more/deep/3.webp"]),
        ("photos/*.jpg", ["photos/1.jpg"]),
        ("photos/**/*.webp", ["photos/more/deep/3.webp"]),
        ("photos/m*", ["photos/more/deep/3.webp"]),
        ("photos/notes.txt", ["photos/notes.txt"]),
        ("missing.jpg", ["missing.jpg"]),
    ],
)
def test_paths(photos, argument, found):
    assert expand([argument]) == found


def test_folder_that_cannot_be_read_is_no_empty_one(photos, monkeypatch):
    # Its path is too long, which stops even those who may read everything.
    for _ in range(20):
        os.mkdir("x" * 250)
        monkeypatch.chdir("x" * 250)
    monkeypatch.chdir(photos)
    with pytest.raises(convoy.InvalidRequest, match=r"^\./x+/.*: File name too long$"):
        expand(["."])


def test_file_whose_name_looks_like_a_glob(photos):
    Path("a[1].jpg").write_bytes(b"1")
    assert expand(["a[1].jpg"]) == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["*.gif"], "convoy: *.gif: matches no image"),
        (["empty"], "convoy: empty: no images"),
        (["--top-k", "11", "bad.jpg"], "convoy: --top-k 11: fake has 10 classes"),
        (["--model", "other", "bad.jpg"], "convoy: no model other; there is: fake"),
    ],
)
def test_wrong_arguments_are_one_line(photos, capsys, arguments, text):
    Path("empty").mkdir()
    code = main(["classify", *arguments])
    err = capsys.readouterr().err
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(text)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--top-k", "0", "x"],
        ["--timeout", "0", "x"],
        ["--timeout", "soon", "x"],
        ["--json", "--csv", "x"],
    ],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["classify", *arguments])
    assert caught.value.code == 2


def test_server_that_is_not_there_is_one_line(photos, capsys):
    assert main(["classify", "--server", "127.0.0.1:1", "bad.jpg"]) == 3
    assert capsys.readouterr().err == (
        "convoy: 127.0.0.1:1: no server answers there (Connection refused)\n"
    )


def test_file_names_cannot_break_the_table(photos, capsys):
    Path("a\nb\x1b[31m.jpg").write_bytes(b"1")
    os.rename(b"bad.jpg", b"\xff.jpg")
    assert main(["classify", "."]) == 1
    assert r"./a\nb\x1b[31m.jpg         class1" in capsys.readouterr().out
