"""Files ↔ named tensors as stored. Importing it does not import torch; reading a tensor does."""

from mosso.checkpoint.config import GenerationDefaults, read_config, read_generation_defaults
from mosso.checkpoint.reader import Checkpoint, TensorInfo, open_checkpoint

__all__ = [
    "Checkpoint",
    "GenerationDefaults",
    "TensorInfo",
    "open_checkpoint",
    "read_config",
    "read_generation_defaults",
]
