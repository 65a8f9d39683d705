"""Every setting of `convoy-serve`: a flag, an environment variable and a key of one TOML file."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FieldSerializationInfo,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from convoy.processors import processor_count
from service.errors import UsageError

ENV_PREFIX = "CONVOY_"
# What no message may show.
SECRET = {"control-token"}
# The context with which secrets are written out, for our own processes alone.
WITH_SECRETS = "with secrets"
# Variables of the client, of training and of the build, which may stand in the same environment.
FOREIGN_VARIABLES = {"CONVOY_COMPILE", "CONVOY_DATA", "CONVOY_SERVER"}
# What Kubernetes puts into every pod beside a Service that is named convoy, or convoy-gpu. A plain
# number is none: CONVOY_GRPC_PORT=8500 is a mistake, of which its author is to hear.
SERVICE_LINK = re.compile(
    r"CONVOY_(\w+_)?(SERVICE_HOST=|SERVICE_PORT[_=]|PORT=\w+://|PORT_\d+_(TCP|UDP|SCTP)[_=])"
)


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("must be HOST:PORT, for example 0.0.0.0:8500 or [::1]:0")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|(cuda|tensorrt)(:\d{1,3})?", value):
        raise ValueError("must be auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N")
    return value


def _token(value: SecretStr) -> SecretStr:
    # Fewer can be guessed; others do not come through a header as they are.
    if not re.fullmatch("[!-~]{16,}", value.get_secret_value()):
        raise ValueError(
            "must be at least 16 characters of printable ASCII, no spaces and ends of lines"
        )
    return value


def _parts(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _cache() -> Path:
    # Unlike Path.expanduser, this bears users without a home, as containers have.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "convoy")


LogLevel = Literal["debug", "info", "warning", "error"]
Address = Annotated[str, AfterValidator(_address)]
Device = Annotated[str, AfterValidator(_device)]
Token = Annotated[SecretStr, AfterValidator(_token)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]  # gRPC takes no larger
Threads = Annotated[int, Field(ge=1, le=1024)]
MaxBatchSize = Annotated[int, Field(ge=1, le=1024)]
MaxDelay = Annotated[float, Field(ge=0, le=10_000)]
# NoDecode: a variable holds 64,256 as a flag does, not JSON.
Sizes = Annotated[tuple[Positive, ...], NoDecode, BeforeValidator(_parts)]


class Settings(BaseSettings):
    """Serve image classifiers over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="convoy-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    config: Path | None = Field(None, description="TOML file with any of these settings.")
    models: Path = Field(
        Path("models"),
        description="Folder of bundles, <name>/<version>/. The newest versions are served, "
        "where models.toml in it does not say otherwise.",
    )
    watch: bool = Field(
        False,
        description="Follow what changes in the folder of models: load new versions beside those "
        "that serve, and swap them in.",
    )
    default_model: str | None = Field(
        None, description="Model for requests that name none. Needed only beside other models."
    )
    grpc_address: Address = Field(
        "127.0.0.1:8500", description="Where gRPC listens; port 0 picks a free one."
    )
    http_address: Address = Field(
        "127.0.0.1:8501",
        description="Where /metrics, /livez, /readyz and REST (/v2) listen; port 0 picks a free "
        "one.",
    )
    front: Literal["auto", "grpcio", "envoy"] = Field(
        "auto",
        description="The transport that carries the calls. envoy needs the extra of that name. "
        "auto: envoy where it can run, else grpcio.",
    )
    on_crash: Literal["restart", "exit"] = Field(
        "restart",
        description="With the front envoy, after the serving process has crashed: start another, "
        "or exit with code 1.",
    )
    device: Device = Field(
        "auto",
        description="auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N. What is named and missing is "
        "an error; auto falls back to the CPU.",
    )
    gpu_memory_limit: Annotated[int, Field(ge=2**20)] | None = Field(
        None,
        description="Bytes of GPU memory that the networks of one model may take, CUDA's own "
        "libraries and TensorRT's engines aside. Default: what there is.",
    )
    cache: Path = Field(
        default_factory=_cache,
        description="Folder for what is measured or built once per model and GPU. "
        "Default: ~/.cache/convoy",
    )
    max_batch_size: MaxBatchSize = Field(
        32, description="Images that run together at most. Raise it on a GPU."
    )
    max_delay_ms: MaxDelay = Field(
        0.0,
        description="How long the oldest image may wait for a batch to fill, in milliseconds; less "
        "where a deadline is near. "
        "0: a batch is whatever waits when the device is free.",
    )
    max_queue_size: Positive = Field(
        1024, description="Images per model that may be in the service at once; more are refused."
    )
    max_queue_bytes: Positive = Field(
        256 * 2**20,
        description="Bytes of requests that may be in the service at once, per model; as much may "
        "be on the way in, of all callers of a port.",
    )
    priority_levels: Annotated[int, Field(ge=1, le=100)] = Field(
        1,
        description="Priorities that requests may have. 1 is the highest: what has a lower one is "
        "decoded and runs only where no higher one waits.",
    )
    default_priority_level: Positive = Field(
        1, description="Priority of requests that name none, or one that there is not."
    )
    priority_queue_sizes: Sizes = Field(
        (),
        description="max-queue-size of each priority, the highest first, as 64,1024; one that is "
        "full refuses nobody of another. Default: max-queue-size for each.",
    )
    max_streams: Positive = Field(
        1000,
        description="Streams of images that may be open at once; each takes some 30 KB while idle.",
    )
    max_connections: Positive = Field(
        20_000,
        description="Connections that may be open at once; others are closed at once. As many "
        "health watches may be.",
    )
    keepalive_interval: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        30.0,
        description="Seconds between pings on each connection; one on which none is answered for "
        "as long is closed.",
    )
    idle_timeout: Annotated[float, Field(ge=0.1, le=86_400)] = Field(
        3600.0, description="Seconds without a call after which a connection is closed."
    )
    max_images_per_request: Positive = Field(256, description="Images in one request at most.")
    max_image_bytes: Positive = Field(16 * 2**20, description="Bytes of one encoded image at most.")
    max_image_pixels: Positive = Field(
        50_000_000,
        description="Pixels of one encoded image at most; a decoder needs 4 to 10 bytes each.",
    )
    max_message_bytes: Positive = Field(64 * 2**20, description="Bytes of one message at most.")
    decode_processes: Threads = Field(
        default_factory=processor_count,
        description="Processes that decode images. Default: the processors this process may use.",
    )
    compute_threads: Threads = Field(
        default_factory=processor_count,
        description="Threads of ONNX Runtime on the CPU, per model. Default: the processors this "
        "process may use.",
    )
    compute_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0,
        description="Seconds that one batch may compute; after that the device is taken to hang, "
        "and the process that serves ends with exit code 1: with the front envoy another is "
        "started.",
    )
    load_timeout: Annotated[float, Field(gt=0, le=86_400)] = Field(
        900.0,
        description="Seconds that one version of a model may take to be checked, loaded and warmed "
        "up, with its rests beside others that serve; after that it is unfit.",
    )
    drain_timeout: Annotated[float, Field(ge=0, le=3600)] = Field(
        30.0, description="Seconds that accepted calls may take to finish after SIGTERM."
    )
    response_cache_bytes: Annotated[int, Field(ge=0, le=2**40)] = Field(
        0,
        description="Bytes of answers that are remembered, for images that are sent again. "
        "0: none, and each image is computed.",
    )
    drift_window: Annotated[float, Field(ge=60, le=30 * 86_400)] = Field(
        3600.0,
        description="Seconds of predictions that convoy_drift_psi compares with the model's "
        "baseline; it needs 1,000 of them.",
    )
    log_level: LogLevel = Field("info", description="The least severe events that are logged.")
    access_log: bool = Field(
        False, description="Log each call: the event `call`, with status, duration and sizes."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="json: one object a line. console: for people."
    )
    control_token: Token | None = Field(
        None,
        description="Lets callers who send it load, unload, promote and roll back models. Set it "
        "by its variable: flags can be read by other users of the machine. Default: nobody may.",
    )
    log_settings: bool = Field(
        False, description="Let whoever can call the service change the log level (LogSettings)."
    )
    shared_memory: bool = Field(
        False,
        description="Let whoever can call the service name shared memory of this machine to read "
        "images from and write answers to: any object in /dev/shm that the service may open.",
    )

    @field_validator("default_priority_level")
    @classmethod
    def _one_of_the_levels(cls, level: int, info: ValidationInfo) -> int:
        levels = info.data.get("priority_levels", level)
        if level > levels:
            raise ValueError(f"must be 1 to priority-levels, {levels}")
        return level

    @field_validator("priority_queue_sizes")
    @classmethod
    def _one_for_each_level(cls, sizes: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        levels = info.data.get("priority_levels", len(sizes))
        if len(sizes) not in (0, levels):
            raise ValueError(f"must be {levels} in number, as priority-levels says")
        return sizes

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The `max_queue_size` of each priority, the highest first."""
        return self.priority_queue_sizes or (self.max_queue_size,) * self.priority_levels

    @field_serializer("control_token", when_used="json-unless-none")
    def _secret(self, token: SecretStr, info: FieldSerializationInfo) -> str:
        return token.get_secret_value() if info.context == WITH_SECRETS else str(token)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags (put first by pydantic-settings) win over variables, variables over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def read_settings(arguments: Sequence[str]) -> Settings:
    """Settings from flags, environment and the file that `--config` names.

    Raises: UsageError, one line that names the setting.
    """
    _refuse_unknown_variables()
    file = _config_file(arguments)

    class FromFile(Settings, toml_file=file):
        __doc__ = Settings.__doc__

    try:
        # The plugin of pydantic for mypy would know these; they are public parameters.
        return FromFile(_cli_parse_args=list(arguments), _cli_exit_on_error=False)  # type: ignore[call-arg]
    except ValidationError as error:
        raise UsageError(_one_line(error)) from None
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _config_file(arguments: Sequence[str]) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(f"{ENV_PREFIX}CONFIG"))
    try:
        name = parser.parse_known_args(arguments)[0].config
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if not name:
        return None
    import tomllib  # slow to import, for a file that many do not have

    try:
        if "config" in tomllib.loads(Path(name).read_text()):
            raise UsageError(f"{name}: config: a file cannot name another one")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"config: {name}: {error}") from None
    return Path(name)


def _refuse_unknown_variables() -> None:
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | FOREIGN_VARIABLES
    for name, value in os.environ.items():
        if SERVICE_LINK.match(f"{name}={value}"):
            continue
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise UsageError(f"{name}: no such setting (an environment variable); see --help")


def _one_line(error: ValidationError) -> str:
    parts = []
    for one in error.errors(include_url=False):
        name = "-".join(str(part) for part in one["loc"]).replace("_", "-")
        if one["type"] == "extra_forbidden":
            parts.append(f"{name}: no such setting; see --help")
        else:
            reason = one["msg"].removeprefix("Value error, ")
            got = "" if name in SECRET else f", got {one['input']!r}"
            parts.append(f"{name}: {reason}{got}")
    return "; ".join(parts)
