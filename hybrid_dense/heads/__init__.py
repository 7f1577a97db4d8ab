"""What the hosts lack: the classification of whole images, on mmengine alone."""

from hybrid_dense.heads.batch_images import BatchImages
from hybrid_dense.heads.classifier import ImageClassifier

__all__ = ["BatchImages", "ImageClassifier"]
