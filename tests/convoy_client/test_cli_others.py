"""`convoy models`, `convoy health`, and what holds for every command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import convoy
from convoy.cli import main
from tests.convoy_client.fake import LABELS, FakeServer

# As in a shell; tests may run with output that is never held back.
BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
COMMAND = [str(Path(sys.executable).parent / "convoy")]


def test_models_table(server, capsys):
    assert main(["models", "--server", server.target]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["model", "version", "role", "default"]
    assert row.split()[:7] == ["fake", "3", "yes", "4x6x3", "10", "fp32", "CPU"]
    assert row.endswith("92.50% (90.00-95.00) test")
    assert header.index("precision") == row.index("fp32")


def test_models_json(server, capsys):
    assert main(["models", "--json", "--server", server.target]) == 0
    model = json.loads(capsys.readouterr().out)
    assert (model["name"], model["labels"], model["task"]) == ("fake", LABELS, "single-label")


@pytest.mark.parametrize(
    ("arguments", "healthy", "code", "text"),
    [
        ([], True, 0, "SERVING\n"),
        (["fake"], True, 0, "SERVING\n"),
        ([], False, 1, "NOT_SERVING\n"),
        (["--model", "fake"], True, 0, "SERVING\n"),
        (["other"], True, 1, ""),
        (["--model", "other"], True, 1, ""),
        (["--server", "127.0.0.1:1"], True, 1, ""),
    ],
)
def test_health(server, capsys, arguments, healthy, code, text):
    server.healthy = healthy
    assert main(["health", "--server", server.target, *arguments]) == code
    assert capsys.readouterr().out == text


def test_health_of_an_unknown_model_says_so(server, capsys):
    assert main(["health", "--server", server.target, "other"]) == 1
    assert "no model 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["classify", "models", "health", "bench"])
@pytest.mark.parametrize(
    ("server_argument", "text"),
    [("http://127.0.0.1:8500", "without http://"), ("\udcff:8500", "not UTF-8")],
)
def test_server_argument_that_cannot_be_one(tmp_path, capsys, command, server_argument, text):
    (tmp_path / "1.jpg").write_bytes(b"1")
    paths = [str(tmp_path)] if command in ("classify", "bench") else []
    assert main([command, "--server", server_argument, *paths]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert text in err


@pytest.mark.parametrize("command", ["classify", "bench"])
def test_model_that_is_not_utf8(server, tmp_path, capsys, command):
    (tmp_path / "1.jpg").write_bytes(b"1")
    assert main([command, "--server", server.target, "--model", "\udcff", str(tmp_path)]) == 2
    assert "model '\\udcff' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["classify", "models", "health"])
def test_full_disk_is_one_line(server: FakeServer, tmp_path, command):
    (tmp_path / "1.jpg").write_bytes(b"1")
    paths = [str(tmp_path)] if command == "classify" else []
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [*COMMAND, command, "--server", server.target, *paths],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stderr == "convoy: the output cannot be written: No space left on device\n"
    assert process.returncode == 4


def test_full_disk_hides_no_failure(server: FakeServer, tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"1")
    server.refuse("UNAUTHENTICATED", times=9)
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [*COMMAND, "classify", "--csv", "--server", server.target, str(tmp_path)],
            env=BUFFERED,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    told, full_disk = process.stderr.splitlines()
    assert (told, process.returncode) == ("convoy: told to", 3)
    assert full_disk == "convoy: the output cannot be written: No space left on device"


def test_complaint_that_nobody_can_read_changes_no_exit_code():
    with open("/dev/full", "w") as full:
        command = [*COMMAND, "models", "--server", "127.0.0.1:1", "--timeout", "1"]
        assert subprocess.run(command, env=BUFFERED, stderr=full).returncode == 3


def test_interrupt_while_the_output_is_stuck(server: FakeServer):
    server.model.labels[:] = ["x" * 1000] * 1000
    command = [*COMMAND, "models", "--json", "--server", server.target]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=BUFFERED, **both) as process:
        assert process.stdout.read(1)  # from here on the pipe is full
        process.send_signal(signal.SIGINT)
        # What was written before is still to come out: reading on, lest it waits for ever.
        assert process.communicate(timeout=60)[1] == b"convoy: interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize("closed", [1, 2], ids=["stdout", "stderr"])
def test_closed_stream_is_no_error(server: FakeServer, tmp_path, closed):
    (tmp_path / "1.jpg").write_bytes(b"1")
    command = [*COMMAND, "classify", "--server", server.target, str(tmp_path)]
    process = subprocess.run(["bash", "-c", f'exec "$@" {closed}>&-', "-", *command])
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model-version", "3"], "convoy: models: --model-version is for promote"),
        (["load", "\udcff"], "convoy: model '\\udcff' is not UTF-8"),
        (["load", "fake", "--server", "http://127.0.0.1:1"], "without http://"),
    ],
)
def test_wrong_arguments_of_models(server, monkeypatch, capsys, arguments, text):
    monkeypatch.setenv("CONVOY_CONTROL_TOKEN", "secret")
    assert main(["models", "--server", server.target, *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert text in err


@pytest.mark.parametrize("action", [[], ["load", "tiny"]])
def test_a_server_that_is_not_there(monkeypatch, capsys, action):
    monkeypatch.setenv("CONVOY_CONTROL_TOKEN", "secret")
    assert main(["models", *action, "--server", "127.0.0.1:1", "--timeout", "1"]) == 3
    text = "convoy: 127.0.0.1:1: no server answers there (Connection refused)\n"
    assert capsys.readouterr() == ("", text)


def test_promote_takes_no_label(server):
    refused = pytest.raises(convoy.InvalidRequest, match="promote takes a number")
    with convoy.ModelControl(server.target, "secret") as control, refused:
        control.promote("fake", "stable")


def test_control_that_is_closed(server):
    control = convoy.ModelControl(server.target, "secret")
    control.close()
    with pytest.raises(convoy.ClientError, match="the client is closed"):
        control.load("fake")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "dns:///localhost:{}", "ipv4:127.0.0.1:{}"])
def test_proxy_is_not_for_this_machine(server: FakeServer, monkeypatch, form):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert main(["health", "--server", form.format(server.port)]) == 0


def test_server_that_does_not_answer_in_time(server: FakeServer, tmp_path, capsys):
    (tmp_path / "1.jpg").write_bytes(b"1")
    server.open.clear()
    options = ["--server", server.target, "--timeout", "0.3"]
    assert main(["classify", *options, str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"convoy: {server.target}: no answer within 0.3 s\n")


@pytest.mark.parametrize("command", ["classify", "bench"])
def test_interrupt_is_one_line(server: FakeServer, tmp_path, command):
    (tmp_path / "1.jpg").write_bytes(b"1")
    server.open.clear()
    arguments = [command, "--server", server.target, str(tmp_path)]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert server.arrived.acquire(timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "convoy: interrupted\n"
    assert process.returncode == 130


def test_reader_that_leaves_is_no_error(server: FakeServer, tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}-{'x' * 60}.jpg").write_bytes(b"1")
    arguments = ["classify", "--json", "--server", server.target, str(tmp_path)]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*COMMAND, *arguments], **both) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_version_and_help(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert caught.value.code == 0
    assert "exit codes:" in capsys.readouterr().out
