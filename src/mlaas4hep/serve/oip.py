"""Messages of the Open Inference Protocol over gRPC, and those of Triton's extensions: statistics, repository."""

from __future__ import annotations

from typing import Any

from mlaas4hep.serve.messages import Messages

SERVICE = "inference.GRPCInferenceService"

_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions:*string",
    "ModelMetadataRequest": "name:string version:string",
    "TensorMetadata": "name:string datatype:string shape:*int64",
    "ModelMetadataResponse": "name:string versions:*string platform:string inputs:*TensorMetadata "
    "outputs:*TensorMetadata properties:{}string",
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
}
_messages = Messages("inference", _MESSAGES)


def message(name: str) -> Any:
    """The class of a message, for example ``ModelInferRequest``. Raises KeyError."""
    return _messages.of(name)
