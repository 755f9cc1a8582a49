"""Private modules of Keras, which are checked before other modules use them."""

from __future__ import annotations

import keras

from tf_backup._tf import private_names

# What other modules use, in the form of `private_names.check`. docs/internals.md says what for.
_NAMES = {
    "keras:Layer": "_call_has_training_arg _flatten_layers _metrics _seed_generators",
    "keras:callbacks.CallbackList": "callbacks",
    "keras:callbacks.ModelCheckpoint": "save_freq",
    "keras:layers.Embedding": "_embeddings call lora_enabled quantization_mode",
    "keras:metrics.Metric": "result",
    "keras:optimizers.Optimizer": (
        "_distribution_strategy _learning_rate _lookup_dependency _trackable_children "
        "add_variable_from_reference apply"
    ),
    "keras.src.backend": "StatelessScope Variable",
    "keras.src.backend:StatelessScope": "add_update get_current_value",
    "keras.src.backend:Variable": "_value",
    "keras.src.backend.config": "max_steps_per_epoch",
    "keras.src.backend.tensorflow.trainer:TFEpochIterator": "_distributed_dataset",
    "keras.src.backend.tensorflow.trainer:TensorFlowTrainer": (
        "_compile_loss _compile_metrics _compute_loss _distribute_strategy _loss_tracker "
        "_make_function _maybe_symbolic_build _symbolic_build compile_from_config compute_metrics "
        "evaluate fit get_compile_config make_test_function make_train_function predict test_step "
        "train_step"
    ),
    "keras.src.random.seed_generator": "global_seed_generator",
    "keras.src.trainers.data_adapters": "get_data_adapter",
    "keras.src.trainers.data_adapters:ArrayDataAdapter": (
        "_batch_size _inputs _num_samples _shuffle get_tf_dataset num_batches on_epoch_begin "
        "on_epoch_end"
    ),
    "keras.src.trainers.data_adapters:GeneratorDataAdapter": "generator",
    "keras.src.trainers.data_adapters:PyDatasetAdapter": "_get_iterator",
    "keras.src.trainers.data_adapters:TFDatasetAdapter": "get_tf_dataset num_batches",
    "keras.src.trainers.data_adapters.array_slicing": (
        "TensorflowSparseWrapper convert_to_sliceable slice_tensorflow_sparse_wrapper"
    ),
    "keras.src.trainers.data_adapters.data_adapter_utils": "unpack_x_y_sample_weight",
    "keras.src.tree": "flatten lists_to_tuples traverse",
    "keras.src.utils": "is_default",
}

try:
    from keras.src import backend, tree, utils
    from keras.src.backend import config
    from keras.src.backend.tensorflow import trainer
    from keras.src.random import seed_generator
    from keras.src.trainers import data_adapters
    from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
finally:  # If an import fails, this error says more.
    private_names.check("keras", keras.__version__, _NAMES)

__all__ = [
    "array_slicing",
    "backend",
    "config",
    "data_adapter_utils",
    "data_adapters",
    "seed_generator",
    "trainer",
    "tree",
    "utils",
]
