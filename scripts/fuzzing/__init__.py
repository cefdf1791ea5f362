"""The kinds of bad input, by name; each writes its files into the working directory and returns the command's words."""

from fuzzing.case import Kind
from fuzzing.files import artifact, checkpoint, flipped_weights, measurements, scores, training_checkpoint
from fuzzing.samples import images, libsvm, mnist, own_dataset
from fuzzing.texts import settings, words

KINDS: dict[str, Kind] = {
    "configuration": settings,
    "words": words,
    "checkpoint": checkpoint,
    "pruned file": artifact,
    "scores file": scores,
    "flipped weights": flipped_weights,
    "training checkpoint": training_checkpoint,
    "measurements": measurements,
    "images": images,
    "LIBSVM": libsvm,
    "MNIST files": mnist,
    "own dataset": own_dataset,
}

REFUSED = {"flipped weights"}  # must not pass: exit code 6
