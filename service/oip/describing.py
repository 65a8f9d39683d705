"""What the protocol tells of a model: its tensors, its configuration, its statistics."""

from __future__ import annotations

from collections.abc import Iterable

from convoy.bundle import INPUT_NAME, MODEL_FILE, OUTPUT_NAME
from service.devices import CPU
from service.oip import grpc_service_pb2 as pb
from service.served import ServedModel
from service.settings import Settings

# Beside INPUT_NAME, which takes pixels: this one takes image files.
ENCODED_NAME = "encoded_images"
# What Triton calls a model that ONNX Runtime runs; clients and tools look at it.
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"

_Tensor = pb.ModelMetadataResponse.TensorMetadata


def metadata(model: ServedModel, versions: Iterable[int]) -> pb.ModelMetadataResponse:
    """The tensors of a model, of which these versions serve.

    Tools fill every input that they find, so ENCODED_NAME stands among the properties.
    """
    manifest = model.manifest
    images = _Tensor(name=INPUT_NAME, datatype="UINT8", shape=[-1, *model.spec.shape])
    scores = _Tensor(name=OUTPUT_NAME, datatype="FP32", shape=[-1, len(model.labels)])
    return pb.ModelMetadataResponse(
        name=manifest.name,
        versions=[str(one) for one in sorted(versions)],
        platform=PLATFORM,
        inputs=[images],
        outputs=[scores],
        properties={"encoded_input": f"{ENCODED_NAME} BYTES [-1]", **_properties(model)},
    )


def config(model: ServedModel) -> pb.ModelConfig:
    """A model's configuration, as far as there is one."""
    on_cpu = model.provider == CPU
    kind = pb.ModelInstanceGroup.KIND_CPU if on_cpu else pb.ModelInstanceGroup.KIND_GPU
    return pb.ModelConfig(
        name=model.manifest.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        max_batch_size=model.max_batch_size,
        input=[
            pb.ModelInput(
                name=INPUT_NAME,
                data_type=pb.TYPE_UINT8,
                format=pb.ModelInput.FORMAT_NHWC,
                dims=model.spec.shape,
            )
        ],
        output=[pb.ModelOutput(name=OUTPUT_NAME, data_type=pb.TYPE_FP32, dims=[len(model.labels)])],
        instance_group=[
            pb.ModelInstanceGroup(name=model.manifest.name, count=model.concurrency, kind=kind)
        ],
        response_cache=pb.ModelResponseCache(enable=True) if model.answers is not None else None,
        default_model_filename=MODEL_FILE,
        dynamic_batching=_batching(model.settings),
        parameters={
            name: pb.ModelParameter(string_value=value)
            for name, value in _properties(model).items()
        },
    )


def _batching(settings: Settings) -> pb.ModelDynamicBatching:
    several = settings.priority_levels > 1
    return pb.ModelDynamicBatching(
        max_queue_delay_microseconds=round(settings.max_delay_ms * 1000),
        priority_levels=settings.priority_levels if several else 0,
        default_priority_level=settings.default_priority_level if several else 0,
        default_queue_policy=_policy(settings.max_queue_size),
        priority_queue_policy={
            level: _policy(size) for level, size in enumerate(settings.priority_queue_sizes, 1)
        },
    )


def _policy(size: int) -> pb.ModelQueuePolicy:
    return pb.ModelQueuePolicy(allow_timeout_override=True, max_queue_size=size)


def statistics(model: ServedModel) -> pb.ModelStatistics:
    """What a model has done, from the counts that stand on /metrics."""
    counted = model.metrics
    cache = counted.cache
    requests = counted.stages["answer"].count
    decode, queue, compute, answer = (
        # Pixels are not decoded, but tools want all of these to count the same requests.
        pb.StatisticDuration(count=requests, ns=round(counted.stages[stage].total * 1e9))
        for stage in ("decode", "queue", "compute", "answer")
    )
    total = decode.ns + queue.ns + compute.ns + answer.ns
    return pb.ModelStatistics(
        name=model.manifest.name,
        version=str(model.manifest.version),
        last_inference=round(counted.last_answer * 1000),
        inference_count=counted.images,
        execution_count=counted.batch_size.count,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=requests, ns=total),
            fail=pb.StatisticDuration(count=counted.failed),
            queue=queue,
            # Where nothing was to be decoded, that took no time.
            compute_input=pb.StatisticDuration(count=answer.count, ns=decode.ns),
            compute_infer=compute,
            compute_output=answer,
            cache_hit=_duration(cache.hits, cache.hit_seconds),
            cache_miss=_duration(cache.misses + cache.coalesced, cache.miss_seconds),
        ),
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))


def _properties(model: ServedModel) -> dict[str, str]:
    manifest = model.manifest
    return {"task": manifest.task, "precision": manifest.precision, "provider": model.provider}
