"""Where there is no GPU, the Triton kernels run in Triton's interpreter.

It must be asked for before the kernels are first imported, which no module does by itself.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
