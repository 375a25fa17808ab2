"""Quantization of embeddings to eight bits a number.

Each channel has its own range, as the channels of SAM's features differ by a factor of a hundred.
"""

import numpy as np
import torch
from numpy.typing import NDArray

STEPS = 255  # from a channel's lowest value, code 0, to its highest


def quantize(values: NDArray[np.float16]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes (C, h, w) uint8 of finite values (C, h, w), and each channel's lowest value and step, (C, 2) float32."""
    numbers = torch.from_numpy(values).float()
    low, high = numbers.amin((1, 2)), numbers.amax((1, 2))
    step = torch.where(high > low, (high - low) / STEPS, 1.0)
    codes = ((numbers - low[:, None, None]) / step[:, None, None]).round_().to(torch.uint8)
    return codes.numpy(), torch.stack([low, step], 1).numpy()


def dequantize(codes: NDArray[np.uint8], scale: NDArray[np.float32]) -> NDArray[np.float16]:
    """The values (C, h, w) float16 of `quantize`'s codes and scale, at most half a step from the original."""
    # By PyTorch: the same bits as by NumPy, in a seventh of the time.
    low, step = torch.from_numpy(scale)[:, :, None, None].unbind(1)
    values: NDArray[np.float16] = torch.from_numpy(codes).float().mul_(step).add_(low).half().numpy()
    return values
