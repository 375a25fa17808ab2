"""Eight bits a number: how an embedding's channels are kept on disk.

Each channel has a range of its own, since those of SAM's features differ by a factor of a hundred.
"""

import numpy as np
import torch
from numpy.typing import NDArray

STEPS = 255  # from a channel's lowest value, code 0, to its highest


def quantise(values: NDArray[np.float16]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes (C, h, w) uint8 of finite values (C, h, w), and each channel's lowest value and step, (C, 2) float32."""
    exact = torch.from_numpy(values).float()
    low, high = exact.amin((1, 2)), exact.amax((1, 2))
    step = torch.where(high > low, (high - low) / STEPS, 1.0)
    codes = ((exact - low[:, None, None]) / step[:, None, None]).round_().to(torch.uint8)
    return codes.numpy(), torch.stack([low, step], 1).numpy()


def restore(codes: NDArray[np.uint8], scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """The values of `quantise`'s codes and scale, (C, h, w), at most half a step from what they were."""
    # By PyTorch 0.3 ms for the tiny SAM's embedding, by NumPy, bit for bit the same, 2.2.
    low, step = torch.from_numpy(scale)[:, :, None, None].unbind(1)
    values: NDArray[np.float16] = torch.from_numpy(codes).float().mul_(step).add_(low).half().numpy()
    return values
