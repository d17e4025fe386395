"""The least case of a fault in oneDNN: a wrong weight gradient, and memory damaged. For a report upstream.

    ONEDNN_MAX_CPU_ISA=AVX2 python onednn_weight_gradient.py     # an AVX2 processor needs no variable

Expected: three relative errors near 1e-7, and exit status 0. Seen with torch 2.15.0 (oneDNN 3.13.3) on AVX2: errors of
0.2 to 0.3, or the process ends with "corrupted double-linked list". It takes a 1×1 convolution of stride 2, float32,
channels_last, with fewer input channels than the kernel's block: 8 on AVX2. On AVX-512 the block is 16, and it takes
images above 40×40 as well: change CHANNELS to (8, 16) and SIDE to 64. Stride 1, or more channels, are right.

Known as https://github.com/uxlfoundation/oneDNN/issues/6035, open in November 2026, which also has the cause: the
copy of the image without the pixels that the stride leaves out is written at steps of the block, but space is booked
for the channels that there are.
"""

import torch

CHANNELS, SIDE = (4, 8), 8
torch.manual_seed(0)
x = torch.randn(16, CHANNELS[0], SIDE, SIDE).contiguous(memory_format=torch.channels_last)
layer = torch.nn.Conv2d(*CHANNELS, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
towards = torch.randn(16, CHANNELS[1], SIDE // 2, SIDE // 2).contiguous(memory_format=torch.channels_last)
torch.backends.mkldnn.enabled = False
(right,) = torch.autograd.grad(layer(x), layer.weight, towards)
torch.backends.mkldnn.enabled = True
errors = [torch.autograd.grad(layer(x), layer.weight, towards)[0].sub(right).norm() / right.norm() for _ in range(3)]
print(torch.__version__, *(f"{float(error):.1e}" for error in errors))
raise SystemExit(not max(errors) < 1e-4)
