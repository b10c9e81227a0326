"""What a user writes by hand: the SHA-256 of every tensor that safetensors gives as torch's.

python by_hand.py FILE ...
"""

import hashlib
import sys

import torch
from safetensors import safe_open

for path in sys.argv[1:]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            data = file.get_tensor(name).view(torch.uint8).numpy()
            print(name, hashlib.sha256(data).hexdigest())
