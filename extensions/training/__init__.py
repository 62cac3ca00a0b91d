"""Training sets as files: labels in, a service's features joined, Parquet and a manifest out."""

from extensions.training.label_source import Labels, read_labels
from extensions.training.manifest import Manifest, read_manifest
from extensions.training.training_set import Progress, TrainingSet, take, take_again

__all__ = [
    "Labels",
    "Manifest",
    "Progress",
    "TrainingSet",
    "read_labels",
    "read_manifest",
    "take",
    "take_again",
]
