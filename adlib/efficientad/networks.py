"""The networks of EfficientAD: the patch description network (PDN) of teacher and student, and the autoencoder.

Source: Batzner, Heckler, König, EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies,
WACV 2024, and the layer tables of its appendix. They are given there for images of 256×256 pixels.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.checks import flag, number, whole
from adlib.files import read_tensors, write_tensors

# Kernel, channels (None: the output's), padding where it is on, and whether a pooling follows.
LAYERS = {
    "s": ((4, 128, 3, True), (4, 256, 3, True), (3, 256, 1, False), (4, None, 0, False)),
    "m": ((4, 256, 3, True), (4, 512, 3, True), (1, 512, 0, False), (3, 512, 1, False), (4, None, 0, False),
          (1, None, 0, False)),
}  # fmt: skip
TEACHERS = {"adlib_pdn_s": "adlib_pdn_s_v1.safetensors", "adlib_pdn_s_quarter": "adlib_pdn_s_quarter_v1.safetensors"}
# SHA-256 of the teachers that others publish. The reference's and anomalib's are two distillations, with other weights.
PUBLISHED = {
    "b98a6a139087a0d743783ee59f367f0284af6003eb1a5fed0ce92bd9c0acd337": "the reference's models/teacher_small.pth",
    "a66e1513cbc252e7907531ef4536155e338a48e8edf3a5e6a66498f661414b9c": "the reference's models/teacher_medium.pth",
    "a16ded54719674435576aee641152616a640dfc6dc2b83115dab6e226610ae7d": "anomalib's pretrained_teacher_small.pth",
    "f7356663c8e00ada12ae01fb8c8aad0a1de2f800f8eadf252a46d29bbdfdf718": "anomalib's pretrained_teacher_medium.pth",
}
STRIDE, FIELD = 4, 33  # pixels from one cell of the output to the next, and that one cell sees
DRAWS = ("he", "torch")
SMALLEST = 64  # side of the smallest image that the autoencoder takes


class PDN(nn.Module):
    """Images (B, 3, H, W), normalised, to one vector for each 33×33 pixels: (B, C, h, w). Equation (5.1).

    Parameters
    ----------
    size : str
        "s", four convolutions, or "m", six.
    out_channels : int
        C, 384 for the paper's teacher and twice as many for its student.
    width : float
        A factor on the inner channels, for small machines; not on C.
    padding : bool
        With it, 256 pixels give 64 cells; without it 56, of which none has seen anything but the image.
    seed : int
        Draws the weights as torch does by default.

    Raises
    ------
    ValueError
        For another size, or numbers below 1.

    References
    ----------
    Batzner et al. 2024, appendix A.1.
    """

    def __init__(
        self, size: str = "s", *, out_channels: int = 384, width: float = 1.0, padding: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        if size not in LAYERS:
            raise ValueError(f"size = {size!r}: expected 's' or 'm'")
        whole("out_channels", out_channels, most=16_384)
        number("width", width, "(0, 16]")
        flag("padding", padding)
        self.size, self.out_channels, self.width, self.padding = size, out_channels, width, padding
        layers: list[nn.Module] = []
        channels = 3
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for kernel, out, pad, pooled in LAYERS[size]:
                out = out_channels if out is None else max(1, round(width * out))
                last = nn.Conv2d(channels, out, kernel, padding=pad if padding else 0)
                layers += [last, nn.ReLU(inplace=True)]
                if pooled:
                    layers.append(nn.AvgPool2d(2, 2, padding=1 if padding else 0))
                channels = out
        self.trunk = nn.Sequential(*layers[:-2])
        self.last = last  # without a ReLU: features may be negative  # pyrefly: ignore[unbound-name]

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.trunk(images))  # (B, C, h, w)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Cells (h, w) of the output for images of (H, W) pixels, at least 33 a side. Equation (5.1)."""
        height, width = (self._cells(pixels) for pixels in image_size)
        if min(height, width) < 1:
            raise ValueError(f"images of {image_size} pixels: a PDN needs at least {FIELD}×{FIELD}")
        return height, width

    def _cells(self, pixels: int) -> int:
        for kernel, _, pad, pooled in LAYERS[self.size]:
            pixels = pixels + (2 * pad if self.padding else 0) - kernel + 1
            pixels = (pixels + (2 if self.padding else 0)) // 2 if pooled else pixels
        return pixels

    def save(self, path: str | Path) -> None:
        """Write layers and weights as one safetensors file, whole or not at all, as float16: half the size."""
        weights = {name: value.half() for name, value in self.state_dict().items()}
        write_tensors(Path(path), weights, {"method": "PDN", "format": 1, **self.config()})

    @classmethod
    def load(cls, path: str | Path) -> PDN:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Names the file where it is something else.
        """
        about, weights = read_tensors(Path(path))
        if about.get("method") != "PDN" or about.get("format") != 1:
            raise ValueError(f"{path}: expected a PDN saved by adlib, found {about.get('method', 'something else')}")
        try:
            pdn = cls(about["size"], out_channels=about["out_channels"], width=about["width"], padding=about["padding"])
            pdn.load_state_dict({name: value.float() for name, value in weights.items()})
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its settings and weights make no PDN ({error}); save it again") from error
        return pdn.eval()

    def config(self) -> dict[str, Any]:
        """What makes the same network again, with other weights."""
        return {"size": self.size, "out_channels": self.out_channels, "width": self.width, "padding": self.padding}


def load_teacher(teacher: str | PDN, *, pretrained: bool = True, seed: int = 0) -> PDN:
    """A frozen teacher in evaluation mode: a shipped one by its name, or a copy of your own.

    Parameters
    ----------
    teacher : str or PDN
        "adlib_pdn_s", "adlib_pdn_s_quarter", or a `PDN` such as `adlib.efficientad.distillation.distill` gives.
    pretrained : bool
        False gives a named one random weights drawn from `seed`.
    seed : int

    Returns
    -------
    PDN

    Raises
    ------
    ValueError
        For another name.
    """
    if isinstance(teacher, PDN):
        pdn = copy.deepcopy(teacher)
    elif teacher in TEACHERS:
        with resources.as_file(resources.files("adlib") / "weights" / TEACHERS[teacher]) as path:
            pdn = PDN.load(path)
        pdn = pdn if pretrained else PDN(**pdn.config(), seed=seed)
    else:
        raise ValueError(f"teacher = {teacher!r}: expected a PDN, or one of {', '.join(TEACHERS)}")
    # Channels last: convolutions on CPUs are a quarter faster with it.
    return pdn.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def read_teacher(path: str | Path) -> PDN:
    """A teacher from a .pth file of weights in the layout of the reference, or of anomalib.

    Both have the layers of PDN-S or PDN-M one by one: the reference names a convolution by its place, "0.weight",
    anomalib by its number, "conv1.weight". Nothing is unpickled but tensors. These teachers were distilled with padding
    and are used without, as in the reference.

    Parameters
    ----------
    path : path
        Such as models/teacher_small.pth of nelson1425/EfficientAD, or pretrained_teacher_small.pth from anomalib's
        release "efficientad_pretrained_weights". A file that is none of the `PUBLISHED` is read with a warning.

    Returns
    -------
    PDN
        In evaluation mode, to pass as ``EfficientAD(teacher=…)``.

    Raises
    ------
    ValueError
        Names the file where it holds no such weights.
    """
    path, layout = Path(path), "expected the weights (a state dict) of PDN-S or PDN-M, as the reference publishes them"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{path}: holds something else than tensors, or is damaged ({str(error).splitlines()[0]}); "
                         f"{layout}") from None  # fmt: skip
    place = re.compile(r"(?:conv)?(\d+)\.(weight|bias)")
    if not isinstance(found, dict) or not all(isinstance(name, str) and place.fullmatch(name) for name in found):
        raise ValueError(f"{path}: {layout}")
    ours = {8: "s", 12: "m"}.get(len(found), "s")
    values = [found[name] for name in sorted(found, key=lambda n: (int(re.findall(r"\d+", n)[0]), "bias" in n))]
    try:
        pdn = PDN(ours, out_channels=len(values[-1]))
        pdn.load_state_dict(dict(zip(pdn.state_dict(), values, strict=True)))
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {layout}; its {len(values)} tensors make none ({str(error).splitlines()[0]})"
                         ) from None  # fmt: skip
    if hashlib.sha256(path.read_bytes()).hexdigest() not in PUBLISHED:
        warnings.warn(f"{path}: is none of the files that we know ({', '.join(PUBLISHED.values())})", stacklevel=2)
    return pdn.eval()


class AutoEncoder(nn.Module):
    """Images (B, 3, H, W), normalised, through `latent` numbers back to features on the teacher's grid (B, C, h, w).

    Five convolutions of stride 2 lead to H/32 × W/32 cells, a sixth of 8×8 cells to the code; 256 pixels leave one
    place. Below 256 pixels the sixth covers all H/32 × W/32 cells instead, so that the code still has one place:
    this smaller form is ours. The decoder enlarges six times, to sizes that follow from H and W, each time with a
    convolution of 4×4.

    Parameters
    ----------
    out_channels : int
        C.
    image_size : (H, W)
        At least 64 pixels a side.
    grid : (h, w)
        Of the teacher.
    width : float
        A factor on the inner channels.
    latent : int
        Numbers of the code for each of its places.
    draw : str
        Of the weights: "he", normal with variance 2/fan-in, or "torch", as the reference has it, which makes the
        differences between images weaker in each of the fourteen layers; chapter 5 shows it.
    seed : int

    Raises
    ------
    ValueError
        For smaller images, or numbers below 1.

    References
    ----------
    Batzner et al. 2024, appendix A.1, for 256×256; the sizes for other images as in anomalib.
    """

    def __init__(
        self, out_channels: int, image_size: tuple[int, int], grid: tuple[int, int], *, width: float = 1.0,
        latent: int = 64, draw: str = "he", seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(image_size) < SMALLEST:
            raise ValueError(f"images of {image_size} pixels: the autoencoder needs at least {SMALLEST}×{SMALLEST}")
        if latent < 1 or not width > 0:
            raise ValueError(f"latent = {latent}, width = {width}: expected at least 1, and above 0")
        if draw not in DRAWS:
            raise ValueError(f"draw = {draw!r}: expected one of {', '.join(DRAWS)}")
        h, w = image_size
        self.sizes = [(max(1, h // d - o), max(1, w // d - o)) for d, o in
                      ((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))] + [grid]
        narrow, wide = max(1, round(32 * width)), max(1, round(64 * width))
        channels = (3, narrow, narrow, wide, wide, wide)
        last = (min(8, h // 32), min(8, w // 32))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.encoder = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(channels, channels[1:], strict=False))
            self.code = nn.Conv2d(wide, latent, last)
            self.decoder = nn.ModuleList(nn.Conv2d(latent if i == 0 else wide, wide, 4, padding=2) for i in range(6))
            self.smooth = nn.Conv2d(wide, wide, 3, padding=1)
            self.last = nn.Conv2d(wide, out_channels, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules() if draw == "he" else ():
            if isinstance(layer, nn.Conv2d):
                deviation = (2 / layer.weight[0].numel()) ** 0.5
                layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * deviation
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Features of images.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            Normalised.
        generator : torch.Generator, optional
            Draws the dropout while training; None leaves dropout out.

        Returns
        -------
        Tensor (B, C, h, w)
        """
        x = images
        for layer in self.encoder:
            x = F.relu(layer(x))
        x = self.code(x)  # (B, latent, 1, 1) for 256 pixels
        for layer, size in zip(self.decoder, self.sizes, strict=False):
            x = F.relu(layer(F.interpolate(x, size, mode="bilinear", align_corners=False)))
            x = x if generator is None else _dropout(x, 0.2, generator)
        x = F.relu(self.smooth(F.interpolate(x, self.sizes[-1], mode="bilinear", align_corners=False)))
        return self.last(x)  # (B, C, h, w)


def _dropout(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A share of all numbers becomes 0, the others grow so that the mean stays; torch's own has no generator."""
    draws = torch.empty_like(x, dtype=torch.float32, device=generator.device).uniform_(generator=generator)
    return x * (draws >= share).to(x).div_(1 - share)
