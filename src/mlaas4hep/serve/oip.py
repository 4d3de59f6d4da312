"""Messages of the Open Inference Protocol over gRPC, of Triton's extensions to it, and of gRPC's health protocol.

The classes are made at run time from the table below, which says names, types and, by their order, numbers: generated
code would bind itself to one version of protobuf. Invariant: they live in a pool of their own, so that another copy of
the protocol in the same process, such as tritonclient's, does not disturb.
"""

from __future__ import annotations

from functools import cache
from typing import Any

SERVICE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_PACKAGE = "inference"

# Fields are numbered from 1, or on from what stands behind ``=``. ``*`` is a list, ``{}`` a map from texts, ``|`` one
# of the message's only oneof. Enumerations are numbers, as on the wire.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    # Of TFaaS, on HTTP; its Hits and DataFrame were never read by it.
    "Row": "key:*string value:*float model:string",
    "Class": "label:string probability:float",
    "Predictions": "prediction:*Class",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions:*string",
    "ModelMetadataRequest": "name:string version:string",
    "TensorMetadata": "name:string datatype:string shape:*int64",
    "ModelMetadataResponse": "name:string versions:*string platform:string inputs:*TensorMetadata "
    "outputs:*TensorMetadata properties:{}string",
    "ModelConfigRequest": "name:string version:string",
    "ModelInput": "name:string data_type:int32 dims:*int64=4",
    "ModelOutput": "name:string data_type:int32 dims:*int64 label_filename:string",
    "ModelConfig": "name:string platform:string max_batch_size:int32=4 input:*ModelInput output:*ModelOutput "
    "default_model_filename:string=8 backend:string=17",
    "ModelConfigResponse": "config:ModelConfig",
    "InferParameter": "bool_param:|bool int64_param:|int64 string_param:|string double_param:|double "
    "uint64_param:|uint64",
    "InferTensorContents": "bool_contents:*bool int_contents:*int32 int64_contents:*int64 uint_contents:*uint32 "
    "uint64_contents:*uint64 fp32_contents:*float fp64_contents:*double bytes_contents:*bytes",
    "InferTensor": "name:string datatype:string shape:*int64 parameters:{}InferParameter contents:InferTensorContents",
    "InferRequestedOutputTensor": "name:string parameters:{}InferParameter",
    "ModelInferRequest": "model_name:string model_version:string id:string parameters:{}InferParameter "
    "inputs:*InferTensor outputs:*InferRequestedOutputTensor raw_input_contents:*bytes",
    "ModelInferResponse": "model_name:string model_version:string id:string parameters:{}InferParameter "
    "outputs:*InferTensor raw_output_contents:*bytes",
    "StatisticDuration": "count:uint64 ns:uint64",
    "InferStatistics": "success:StatisticDuration fail:StatisticDuration queue:StatisticDuration "
    "compute_input:StatisticDuration compute_infer:StatisticDuration compute_output:StatisticDuration "
    "cache_hit:StatisticDuration cache_miss:StatisticDuration",
    "InferBatchStatistics": "batch_size:uint64 compute_input:StatisticDuration compute_infer:StatisticDuration "
    "compute_output:StatisticDuration",
    "ModelStatistics": "name:string version:string last_inference:uint64 inference_count:uint64 "
    "execution_count:uint64 inference_stats:InferStatistics batch_stats:*InferBatchStatistics",
    "ModelStatisticsRequest": "name:string version:string",
    "ModelStatisticsResponse": "model_stats:*ModelStatistics",
    "ModelRepositoryParameter": "bool_param:|bool int64_param:|int64 string_param:|string bytes_param:|bytes",
    "RepositoryIndexRequest": "repository_name:string ready:bool",
    "ModelIndex": "name:string version:string state:string reason:string",
    "RepositoryIndexResponse": "models:*ModelIndex",
    "RepositoryModelLoadRequest": "repository_name:string model_name:string parameters:{}ModelRepositoryParameter",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "repository_name:string model_name:string parameters:{}ModelRepositoryParameter",
    "RepositoryModelUnloadResponse": "",
    "HealthCheckRequest": "service:string",
    "HealthCheckResponse": "status:int32",
}


@cache
def message(name: str) -> Any:
    """The class of a message, for example ``ModelInferRequest``. Raises KeyError."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="mlaas4hep/oip.proto", syntax="proto3", package=_PACKAGE)
    for name, fields in _MESSAGES.items():
        one = file.message_type.add(name=name)
        number = 0
        for field in fields.split():
            field_name, _, kind = field.partition(":")
            kind, _, fixed = kind.partition("=")
            number = int(fixed or number + 1)
            _add(one, field_name, kind, number)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add(holder: Any, name: str, kind: str, number: int) -> None:
    field = holder.field.add(name=name, number=number, label=_label(repeated=kind[0] in "*{"))
    if kind[0] == "|":
        if not holder.oneof_decl:
            holder.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind[:2] == "{}":
        # On the wire a map is a list of messages with a key and a value.
        entry = holder.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        _add(entry, "key", "string", 1)
        _add(entry, "value", kind[2:], 2)
        kind = f"{holder.name}.{entry.name}"
    _set_type(field, kind.lstrip("*|"))


def _set_type(field: Any, kind: str) -> None:
    if kind[0].islower():
        field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"


def _label(*, repeated: bool) -> Any:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    return FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
