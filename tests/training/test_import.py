"""Classifiers that others made become bundles that answer as the originals do, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import convoy
from convoy.bundle import Bundle
from tests.conftest import PACKED, ROOT
from tests.servers import running_server
from tests.training.graphs import readers
from training.cli import main
from training.datasets.cifar10 import read_records
from training.datasets.idx import Mnist
from training.importer import read_labels
from training.measure import OnnxModel

PHOTOS = ROOT / "examples" / "photos"
IMAGENET = ["--size", "224", "--resize", "256"]
OPTIONS = {
    "cifar10_pytorch_tutorial_dyn": ["--size", "32", "--mean", "0.5", "--std", "0.5"],
    "mnist-12": ["--size", "28", "--channels", "1", "--scale", "1"],
    "mnist-8": ["--size", "28", "--channels", "1", "--scale", "1"],
    "mobilenetv2_int8": [
        *IMAGENET, "--mean", ".485", ".456", ".406", "--std", ".229", ".224", ".225",
    ],
    "squeezenet1.1_fp16": [*IMAGENET, "--bgr", "--scale", "1", "--mean", "104", "117", "123"],
}  # fmt: skip
"""As models.csv describes them."""

Floats = NDArray[np.float32]


@pytest.fixture(scope="session")
def zoo() -> Path:
    if not (PACKED / "onnx-zoo").is_dir():
        pytest.skip(f"no onnx-zoo in {PACKED}: set CONVOY_DATA")
    return PACKED / "onnx-zoo"


@pytest.fixture(scope="module")
def models(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five, imported."""
    work = tmp_path_factory.mktemp("import")
    ten = write_labels(work, 10)
    for name, options in OPTIONS.items():
        labels = ten if "--resize" not in options else zoo / "imagenet_synset.txt"
        common = ["--labels", str(labels), "--golden", str(PHOTOS), "--models", str(work / "out")]
        assert main(["import", str(zoo / f"{name}.onnx"), *common, *options]) == 0
    return work / "out"


def write_labels(folder: Path, count: int) -> Path:
    file = folder / "labels.txt"
    file.write_text("".join(f"class {k}\n" for k in range(count)))
    return file


def prepare(name: str, pixels: NDArray[np.uint8]) -> Floats:
    """What models.csv says of each, written out."""
    x = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    if name.startswith("cifar10"):
        return (x / 255 - 0.5) / 0.5
    if name.startswith("squeezenet"):
        return x[:, ::-1] - np.float32([104, 117, 123]).reshape(3, 1, 1)
    if name.startswith("mobilenet"):
        mean, std = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 3, 1, 1)
        return np.asarray((x / 255 - mean) / std, np.float32)
    return x


def original(zoo: Path, name: str, pixels: NDArray[np.uint8]) -> Floats:
    """Probabilities [N, K] of the file as it was found, one image at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        zoo / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
    )
    (one,) = session.get_inputs()
    half = one.type == "tensor(float16)"
    rows = [
        np.ravel(session.run(None, {one.name: image[None].astype(np.float16 if half else "f4")})[0])
        for image in prepare(name, pixels)
    ]
    scores = np.stack(rows).astype(np.float32)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores if half else powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_answers_are_the_originals(zoo: Path, models: Path, name: str) -> None:
    bundle = Bundle.open(models / name / "1")
    golden = bundle.golden()
    limit = 1e-3 if name.endswith("fp16") else 1e-5
    assert np.abs(golden.probabilities - original(zoo, name, golden.pixels)).max() <= limit
    model = OnnxModel(bundle.model_path)
    answers = model.predict(golden.pixels, bundle.manifest.max_batch_size)
    np.testing.assert_allclose(answers, golden.probabilities, atol=1e-5)


def test_manifest_says_what_was_found(models: Path) -> None:
    found = {name: Bundle.open(models / name / "1").manifest for name in OPTIONS}
    assert {name: one.max_batch_size for name, one in found.items() if one.max_batch_size} == {
        "mobilenetv2_int8": 1
    }
    assert found["mobilenetv2_int8"].precision == "int8"
    assert found["mobilenetv2_int8"].input.crop_fraction == 0.875
    assert found["squeezenet1.1_fp16"].precision == "fp16"
    assert found["mnist-8"].opset == 8
    assert found["mnist-8"].quality == ()


def test_every_import_has_a_page(models: Path) -> None:
    for name in OPTIONS:
        bundle = Bundle.open(models / name / "1")
        page = (bundle.path / "report.html").read_text()
        assert "What the answer depends on" in page
        assert "Quality on test images" not in page
        assert "report.html" in bundle.manifest.files


def test_published_accuracy_is_met(models: Path, data: Path) -> None:
    digits = Mnist(data / "mnist").tests()[0]
    objects = read_records([data / "cifar10" / "cifar10-test-lossless-1000.bin"])
    for name, test, accuracy in (
        ("mnist-12", digits, 0.9891),
        ("mnist-8", digits, 0.9891),
        ("cifar10_pytorch_tutorial_dyn", objects, 0.655),
    ):
        answers = OnnxModel(Bundle.open(models / name / "1").model_path).predict(test.images)
        assert np.mean(answers.argmax(axis=1) == test.labels) == pytest.approx(accuracy, abs=2e-4)


@pytest.mark.slow
def test_imported_bundles_are_served(models: Path) -> None:
    with running_server(models) as server:
        for name in ("mobilenetv2_int8", "mnist-8"):
            golden = Bundle.open(models / name / "1").golden()
            with convoy.ImageClient(server.grpc_address, model=name) as client:
                results = client.classify(list(golden.encoded), top_k=1)
            for result, row in zip(results, golden.probabilities, strict=True):
                assert result.classes[0].index == row.argmax()
                assert result.classes[0].probability == pytest.approx(row.max(), abs=1e-4)


def test_quality_is_measured_where_there_are_images(tmp_path: Path, zoo: Path, data: Path) -> None:
    labels = tmp_path / "labels.txt"
    names = sorted(one.name for one in (data / "cifar10" / "test-jpeg").iterdir())
    labels.write_text("\n".join(names))
    for name in names:
        (tmp_path / "jpeg" / name).mkdir(parents=True)
        for photo in sorted((data / "cifar10" / "test-jpeg" / name).iterdir())[:10]:
            (tmp_path / "jpeg" / name / photo.name).write_bytes(photo.read_bytes())
    name = "cifar10_pytorch_tutorial_dyn"
    arguments = [str(zoo / f"{name}.onnx"), "--labels", str(labels), *OPTIONS[name]]
    arguments += ["--golden", str(PHOTOS), "--models", str(tmp_path / "models")]
    assert main(["import", *arguments, "--data", str(tmp_path / "jpeg"), "--name", "mine"]) == 0
    bundle = Bundle.open(tmp_path / "models" / "mine" / "1")
    (quality,) = bundle.manifest.quality
    assert "Most confident mistakes, on jpeg" in (bundle.path / "report.html").read_text()
    assert quality.images == 100
    assert 0.5 < quality.accuracy < 0.8


def save(path: Path, nodes: list[onnx.NodeProto], image: tuple[int, list[object]],
         outputs: dict[str, list[object]], *constants: onnx.TensorProto) -> str:  # fmt: skip
    """Write a small graph from `x`, (element type, shape), to float outputs."""
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("x", *image)],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
        list(constants),
    )  # fmt: skip
    opset = [helper.make_opsetid("", 13)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return str(path)


def mean_colours(first: str = "x", *, axes: tuple[int, int] = (1, 2)) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [first], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=axes, keepdims=0),
    ]


def test_uint8_nhwc_and_one_output_of_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [*mean_colours(), helper.make_node("Neg", ["means"], ["other"])]
    shape = [None, None, None, 3]
    outputs = {"means": [None, 3], "other": [None, 3]}
    file = save(tmp_path / "m.onnx", nodes, (TensorProto.UINT8, shape), outputs)
    arguments = ["import", file, "--labels", str(write_labels(tmp_path, 3)), "--layout", "nhwc"]
    arguments += ["--size", "20", "24", "--golden", str(PHOTOS), "--models", str(tmp_path / "out")]
    assert main(arguments) == 2
    arguments += ["--output", "means", "--multi-label", "--bgr"]
    capsys.readouterr()
    assert main([*arguments, "--mean", "0.5"]) == 2
    assert "takes pixels as they are: leave --scale, --mean" in capsys.readouterr().err
    assert main([*arguments, "--data", str(PHOTOS)]) == 2
    assert "a folder gives each image one class, m any number" in capsys.readouterr().err
    assert main(arguments) == 0
    bundle = Bundle.open(tmp_path / "out" / "m" / "1")
    golden = bundle.golden()
    means = golden.pixels[..., ::-1].mean(axis=(1, 2))
    assert (bundle.manifest.task, golden.pixels.shape[1:]) == ("multi-label", (20, 24, 3))
    np.testing.assert_allclose(golden.probabilities, 1 / (1 + np.exp(-means)), atol=1e-5)


def test_pixels_are_cast_before_their_channels_change_places(tmp_path: Path) -> None:
    shape = [None, 3, 16, 16]
    nodes = mean_colours(axes=(2, 3))
    file = save(tmp_path / "m.onnx", nodes, (TensorProto.FLOAT, shape), {"means": [None, 3]})
    arguments = ["import", file, "--labels", str(write_labels(tmp_path, 3)), "--size", "16"]
    arguments += ["--bgr", "--golden", str(PHOTOS), "--models", str(tmp_path)]
    assert main(arguments) == 0
    assert readers(Bundle.open(tmp_path / "m" / "1")) == ["Cast"]


def test_a_batch_of_one_that_cannot_be_opened_stays(tmp_path: Path) -> None:
    target = numpy_helper.from_array(np.array([1, 3], np.int64), "target")
    nodes = [*mean_colours(axes=(2, 3)), helper.make_node("Expand", ["means", "target"], ["wide"])]
    nodes.append(helper.make_node("Flatten", ["wide"], ["flat"], axis=0))
    nodes.append(helper.make_node("Reshape", ["flat", "target"], ["scores"]))
    shape = [1, 3, 16, 16]
    file = save(tmp_path / "m.onnx", nodes, (TensorProto.FLOAT, shape), {"scores": [1, 3]}, target)
    arguments = ["import", file, "--labels", str(write_labels(tmp_path, 3)), "--size", "16"]
    assert main([*arguments, "--golden", str(PHOTOS), "--models", str(tmp_path)]) == 0
    assert Bundle.open(tmp_path / "m" / "1").manifest.max_batch_size == 1


def test_labels_as_windows_saves_them(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes("cat\r\ndog\r\n".encode("utf-8-sig"))
    assert read_labels(file) == ("cat", "dog")


@pytest.mark.parametrize("labels", [1, 2])
def test_one_score_tells_no_classes_apart(
    tmp_path: Path, labels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["grey"], axes=(2, 3), keepdims=0),
        helper.make_node("ReduceMean", ["grey"], ["mean"], axes=(1,), keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["share"]),
    ]
    shape = [None, 3, 16, 16]
    file = save(tmp_path / "m.onnx", nodes, (TensorProto.FLOAT, shape), {"share": [None, 1]})
    arguments = ["import", file, "--labels", str(write_labels(tmp_path, labels)), "--size", "16"]
    arguments += ["--golden", str(PHOTOS), "--models", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "gives one score an image, which tells no classes apart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--multi-label"]) == (0 if labels == 1 else 2)


BROKEN = {
    "git_lfs_pointer": "git lfs pull",
    "no_opset_super_resolution": "no opset version",
    "sklearn_randomforest_not_an_image_model": "one tensor of four dimensions",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_a_line(
    tmp_path: Path, zoo: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {file.stem for file in (zoo / "broken").iterdir()} == BROKEN.keys()
    file = zoo / "broken" / f"{name}.onnx"
    labels = str(write_labels(tmp_path, 10))
    arguments = [str(file), "--labels", labels, "--size", "32", "--models", str(tmp_path / "out")]
    assert main(["import", *arguments, "--golden", str(PHOTOS)]) == 2
    error = capsys.readouterr().err
    assert BROKEN[name] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--size": ["32"]}, "takes images of 1 x 28 x 28, but --size and --layout nchw say 1 x"),
        ({"--channels": ["3"]}, "say 3 x 28 x 28"),
        ({"--layout": ["nhwc"]}, "say 28 x 28 x 1"),
        ({"--labels": ["nine"]}, "gives 10 scores an image, there are 9 labels"),
        ({"--labels": ["gone"]}, "gone: No such file"),
        ({"--output": ["gone"]}, "has no output 'gone', only Plus214_Output_0"),
        ({"--mean": ["1", "2"]}, "--mean: 2 numbers for 1 channels"),
        ({"--std": ["0"]}, "cannot be 0"),
        ({"--mean": ["nan"]}, "must be finite numbers"),
        ({"--size": ["0"]}, "--size: "),
        ({"--resize": ["20"]}, "--resize must be at least --size"),
        ({"--name": ["a b"]}, "cannot be a bundle's name"),
        ({"--golden": ["gone"]}, "gone: no image files"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, zoo: Path, changes: dict[str, list[str]], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    nine = str(write_labels(tmp_path, 9))
    (tmp_path / "ten").mkdir()
    given = {"--labels": [str(write_labels(tmp_path / "ten", 10))], "--golden": [str(PHOTOS)]}
    given |= {"--size": ["28"], "--channels": ["1"], "--models": [str(tmp_path / "out")]} | changes
    words = [word for option, values in given.items() for word in (option, *values)]
    words = [nine if word == "nine" else word for word in words]
    assert main(["import", str(zoo / "mnist-8.onnx"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
