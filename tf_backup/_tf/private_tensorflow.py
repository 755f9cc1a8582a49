"""Private modules of TensorFlow, which are checked before other modules use them."""

from __future__ import annotations

import tensorflow as tf

from tf_backup._tf import private_names

# What other modules use, in the form of `private_names.check`. docs/internals.md says what for.
_NAMES = {
    "tensorflow:Graph": (
        "_add_control_dependencies _distribution_strategy_stack _variable_creator_stack"
    ),
    "tensorflow:Operation": "_is_stateful op_def",
    "tensorflow:__internal__.EagerTensor": "_handle_data",
    "tensorflow:distribute.ParameterServerStrategy": (
        "_cluster_resolver _connect_to_cluster _extended _num_ps _num_workers"
    ),
    "tensorflow:raw_ops": (
        "ConsumeMutexLock DatasetFromGraph DatasetToGraphV2 FIFOQueueV2 MapClear MapPeek MapStage "
        "MapUnstage MutexLock MutexV2 PyFunc QueueCloseV2 QueueDequeueManyV2 QueueDequeueV2 "
        "QueueEnqueueManyV2 QueueEnqueueV2 QueueSizeV2 ReadVariableOp SleepDataset VarHandleOp "
        "VarIsInitializedOp"
    ),
    "tensorflow.core.framework.dataset_options_pb2": "Options",
    "tensorflow.core.protobuf.config_pb2": "ConfigProto",
    "tensorflow.core.protobuf.struct_pb2": "StructuredValue",
    "tensorflow.python.data.ops.iterator_ops:OwnedIterator": "_iterator_resource",
    "tensorflow.python.data.ops.map_op": "_MapDataset",
    "tensorflow.python.data.util.structure": (
        "get_flat_tensor_shapes get_flat_tensor_types to_tensor_list"
    ),
    "tensorflow.python.distribute.parameter_server_strategy_v2:ParameterServerStrategyV2Extended": (
        "_allow_run_without_coordinator _create_variable_round_robin _num_ps "
        "_resource_creator_scope _variable_partitioner"
    ),
    "tensorflow.python.eager.cancellation": "context",
    "tensorflow.python.eager.cancellation:CancellationManager": "start_cancel",
    "tensorflow.python.eager.context": "anonymous_name context ensure_initialized get_server_def",
    "tensorflow.python.eager.context:Context": "_config function_call_options update_server_def",
    "tensorflow.python.eager.context:FunctionCallOptions": "config_proto_serialized executor_type",
    "tensorflow.python.eager.polymorphic_function.atomic_function": "RUNTIME_FUNCTION_REFS",
    "tensorflow.python.eager.polymorphic_function.polymorphic_function:Function": (
        "_omit_frequent_tracing_warning"
    ),
    "tensorflow.python.framework.func_graph:FuncGraph": "capture captures inputs outputs",
    "tensorflow.python.framework.ops": "colocate_with device",
    "tensorflow.python.ops.handle_data_util": "create_handle_data",
    "tensorflow.python.ops.resource_variable_ops": "_variable_handle_from_shape_and_dtype",
    "tensorflow.python.ops.resource_variable_ops:BaseResourceVariable": (
        "_handle _lazy_read _read_variable_op handle"
    ),
    "tensorflow.python.ops.resource_variable_ops:EagerResourceDeleter": "_handle",
    "tensorflow.python.ops.script_ops:_py_funcs": "_funcs",
    "tensorflow.python.saved_model.nested_structure_coder": "decode_proto encode_structure",
}

try:
    from tensorflow.core.framework import dataset_options_pb2
    from tensorflow.core.protobuf import config_pb2, struct_pb2
    from tensorflow.python.data.ops import map_op
    from tensorflow.python.data.util import structure
    from tensorflow.python.distribute import parameter_server_strategy_v2
    from tensorflow.python.eager import cancellation, context
    from tensorflow.python.eager.polymorphic_function import atomic_function
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import handle_data_util, resource_variable_ops, script_ops
    from tensorflow.python.saved_model import nested_structure_coder
finally:  # If an import fails, this error says more.
    private_names.check("tensorflow", tf.__version__, _NAMES)

__all__ = [
    "atomic_function",
    "cancellation",
    "config_pb2",
    "context",
    "dataset_options_pb2",
    "handle_data_util",
    "map_op",
    "nested_structure_coder",
    "ops",
    "parameter_server_strategy_v2",
    "resource_variable_ops",
    "script_ops",
    "struct_pb2",
    "structure",
]
