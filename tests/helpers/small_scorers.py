"""Networks with random weights, and images such as photographs are, for tests of scorers."""

import re
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dgs_utils.runtime.seeds import numpy_rng

FAMILIES = re.findall(r"\w+", """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2
mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t
swin_v2_t vit_b_32
""")  # the lightest of each but VGG, of half a gigabyte, which is as AlexNet

# The lightest network of each family that timm has (a module is a family).
LIGHT = re.findall(r"\w+", """
cait_xxs24_224 coat_tiny convit_tiny cpubone_nano crossvit_tiny_240 cs3darknet_focus_s cspnext_tiny
deit_tiny_patch16_224 densenet121 dla34 dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0
efficientvim_m1 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
gcvit_xxtiny ghostnet_050 gmlp_ti16_224 halonet_h1 hardcorenas_b hgnetv2_b0 hrnet_w18_small iformer_t
inception_next_atto lcnetv2_small legacy_seresnet18 levit_128 lowformer_b0 mobilenetv3_small_050 mobilevit_xxs
pit_ti_224 poolformer_s12 pvt_v2_b0 regnetx_004_tv repghostnet_050 repvit_m1 resnest14d resnetv2_18 rexnet_100
shvit_s1 skresnet18 starnet_s050 swiftformer_xs test_byobnet test_coatnet test_convnext test_efficientnet
test_mambaout test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224 visformer_tiny vit_tiny_r_s16_p8_224
xcit_nano_12_p8_224
""")
HEAVY = re.findall(r"\w+", """
beit_base_patch16_224 convmixer_768_32 csatv2 davit_tiny deepseek_vit_412m focalnet_tiny_srf gemma4_vit_167m_enc
hiera_tiny_224 hieradet_small inception_resnet_v2 inception_v3 inception_v4 legacy_xception mobilenetv5_base
mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small pnasnet5large qwen3_vit_88m rdnet_tiny
res2next50 samvit_base_patch16_224 selecsls42 sequencer2d_s swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 vitamin_small_224 volo_d1_224
xception41p
""")  # of which names and shapes are compared


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        undrawn = (func in (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.erfinv_)
                   or getattr(func, "__module__", "") == "torch.nn.init")
        return (args or [kwargs["tensor"]])[0] if undrawn else func(*args, **(kwargs or {}))


@contextmanager
def unfilled():
    """Let initial weights be whatever is in memory, which costs nothing: they are overwritten, or not looked at."""
    with _Unfilled(), patch("torch.nn.init.trunc_normal_", lambda tensor, *_, **__: tensor):  # draws until it fits
        yield


def weights_for(network: nn.Module, *seed) -> dict[str, Tensor]:
    """Return random weights for a network, with its own names; large ones repeat, since drawing takes long."""
    drawn = torch.from_numpy(numpy_rng("weights", *seed).normal(0, 0.05, 65_537).astype(np.float32))
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            again = drawn.repeat(-(-value.numel() // len(drawn)))[: value.numel()].reshape(value.shape)
            state[key] = again + ("running_var" in key)
    return state


def photographs(folder: Path) -> list[Path]:
    """Write images such as photographs are, of several shapes and modes."""
    rng, paths = numpy_rng("photographs"), []
    shapes = [((310, 233), "RGB"), ((97, 240), "L"), ((640, 150), "P"), ((33, 33), "RGBA")]
    for place, (size, mode) in enumerate(shapes):
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))
        ImageDraw.Draw(image).ellipse((5, 5, size[0] - 9, size[1] // 2), fill=(250, 40, 90))
        paths.append(folder / f"{place}.png")
        image.convert(mode).save(paths[-1])
    return paths
