"""Train the weights that ship as `digits_resnet.safetensors`, beside this file.

    python infprune/models/weights/train_digits_resnet.py

They see the training part of the digits only: the validation and test parts are held out by the constant seeds of
`infprune.data.digits` and of the configuration's `data.seed`. The settings are a first guess; nothing was
tuned. 38 s on one core.
"""

import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).with_name("digits_resnet.safetensors")
SETTINGS = ["train.epochs=40", "train.lr=0.05", "train.label_smoothing=0.05", "run.seed=0"]

if __name__ == "__main__":
    command = [sys.executable, "-m", "infprune", "train", "-c", "digits", "-o", str(TARGET), *SETTINGS]
    sys.exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - fixed arguments
