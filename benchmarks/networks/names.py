"""Which networks are tried: the CNN classifiers of torchvision, and of timm's CNNs at least one of each family.

Of a family the smallest published member is taken, for time; what is left out of torchvision's list are vision transformers.
"""

from __future__ import annotations

import fnmatch
from typing import Any

#: torchvision's classifiers that are no CNNs: they attend, from the first layer or in every block.
TRANSFORMERS = ("vit_*", "swin_*", "maxvit_*")

#: timm's networks, family → names. A family is an architecture that somebody published under a name of its own.
TIMM: dict[str, tuple[str, ...]] = {
    "BAT": ("bat_resnext26ts",),
    "BiT": ("resnetv2_50x1_bit",),
    "CoaT-Lite's peer, CoAtNet's CNN": ("coatnext_nano_rw_224",),
    "ConvMixer": ("convmixer_1024_20_ks9_p14",),
    "ConvFormer": ("convformer_s18",),
    "ConvNeXt": ("convnext_atto", "convnext_atto_ols", "convnext_atto_rms"),
    "ConvNeXt V2": ("convnextv2_atto",),
    "CS3Darknet": ("cs3darknet_m", "cs3sedarknet_l", "cs3edgenet_x"),
    "CSPDarknet": ("cspdarknet53",),
    "CSPNeXt": ("cspnext_tiny",),
    "CSPResNet": ("cspresnet50",),
    "CSPResNeXt": ("cspresnext50",),
    "CSATv2": ("csatv2",),
    "DarkNet": ("darknet53", "darknetaa53"),
    "DenseNet": ("densenet121", "densenetblur121d"),
    "DLA": ("dla34", "dla60_res2net", "dla60x_c"),
    "DPN": ("dpn48b", "dpn68"),
    "ECA-ResNet": ("ecaresnet26t", "eca_resnet33ts"),
    "EdgeNeXt": ("edgenext_xx_small",),
    "EfficientFormer": ("efficientformer_l1",),
    "EfficientFormer V2": ("efficientformerv2_s0",),
    "EfficientNet": ("efficientnet_b0", "tf_efficientnet_b0", "gc_efficientnetv2_rw_t"),
    "EfficientNet-EdgeTPU": ("efficientnet_es",),
    "EfficientNet-Lite": ("efficientnet_lite0",),
    "EfficientNet V2": ("efficientnetv2_rw_t", "tf_efficientnetv2_b0"),
    "EfficientViM": ("efficientvim_m1",),
    "EfficientViT (MIT)": ("efficientvit_b0",),
    "EfficientViT (MSRA)": ("efficientvit_m0",),
    "FasterNet": ("fasternet_t0",),
    "FastViT": ("fastvit_t8",),
    "MobileCLIP's image tower": ("fastvit_mci0",),
    "FBNet": ("fbnetc_100",),
    "FBNet V3": ("fbnetv3_b",),
    "FocalNet": ("focalnet_tiny_srf",),
    "GC-ResNet": ("gcresnet33ts", "gcresnext26ts"),
    "GerNet": ("gernet_s",),
    "GhostNet": ("ghostnet_050",),
    "GhostNet V2": ("ghostnetv2_100",),
    "GhostNet V3": ("ghostnetv3_050",),
    "HaloNet": ("halonet26t",),
    "HardCoReNAS": ("hardcorenas_a",),
    "HGNet": ("hgnet_tiny",),
    "HGNet V2": ("hgnetv2_b0",),
    "HRNet": ("hrnet_w18_small",),
    "IFormer": ("iformer_t",),
    "Inception V3": ("inception_v3",),
    "Inception V4": ("inception_v4",),
    "Inception-NeXt": ("inception_next_atto",),
    "Inception-ResNet V2": ("inception_resnet_v2",),
    "LambdaNet": ("lambda_resnet26t",),
    "LCNet": ("lcnet_035",),
    "LCNet V2": ("lcnetv2_small", "lcnetv2_base"),
    "LeViT": ("levit_conv_128s",),
    "LowFormer": ("lowformer_b0",),
    "MambaOut": ("mambaout_femto",),
    "MixNet": ("mixnet_s", "tf_mixnet_s"),
    "MNASNet": ("mnasnet_small", "semnasnet_075"),
    "MobileNet V1": ("mobilenetv1_100",),
    "MobileNet V2": ("mobilenetv2_035",),
    "MobileNet V3": ("mobilenetv3_small_050", "mobilenetv3_large_100"),
    "MobileNet V4": ("mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"),
    "MobileNet-EdgeTPU V2": ("mobilenet_edgetpu_v2_xs",),
    "MobileOne": ("mobileone_s0",),
    "MobileViT": ("mobilevit_xxs",),
    "MobileViT V2": ("mobilevitv2_050",),
    "NASNet": ("nasnetalarge",),
    "NextViT": ("nextvit_small",),
    "NFNet": ("dm_nfnet_f0", "nfnet_l0", "eca_nfnet_l0"),
    "NF-RegNet": ("nf_regnet_b0",),
    "NF-ResNet": ("nf_resnet50", "nf_ecaresnet26"),
    "PNASNet": ("pnasnet5large",),
    "PoolFormer": ("poolformer_s12",),
    "PoolFormer V2": ("poolformerv2_s12",),
    "RDNet": ("rdnet_tiny",),
    "RegNet X": ("regnetx_002",),
    "RegNet Y": ("regnety_002",),
    "RegNet V": ("regnetv_040",),
    "RegNet Z": ("regnetz_b16", "regnetz_040"),
    "RepGhostNet": ("repghostnet_050",),
    "RepVGG": ("repvgg_a0", "repvgg_d2se"),
    "RepViT": ("repvit_m0_9",),
    "Res2Net": ("res2net50_48w_2s",),
    "Res2NeXt": ("res2next50",),
    "ResNeSt": ("resnest14d",),
    "ResNet": (
        "resnet10t", "resnet18", "resnet26d", "resnet33ts", "resnet61q", "resnetaa50", "resnetblur50", "resnet50_gn",
        "test_resnet",
    ),
    "ResNet-RS": ("resnetrs50",),
    "ResNet V2": ("resnetv2_50", "resnetv2_50d_gn", "resnetv2_50d_evos"),
    "ResNeXt": ("resnext26ts", "resnext50_32x4d"),
    "ReXNet": ("rexnet_100", "rexnetr_200"),
    "SelecSLS": ("selecsls42b",),
    "SENet": ("legacy_seresnet18", "legacy_seresnext26_32x4d"),
    "SE-ResNet": ("seresnet33ts", "seresnext26d_32x4d"),
    "SHViT": ("shvit_s1",),
    "Single-Path NAS": ("spnasnet_100",),
    "SKNet": ("skresnet18", "skresnext50_32x4d"),
    "StarNet": ("starnet_s1",),
    "SwiftFormer": ("swiftformer_xs",),
    "TinyNet": ("tinynet_e",),
    "TResNet": ("tresnet_m",),
    "VGG": ("vgg11", "vgg11_bn"),
    "Visformer": ("visformer_tiny",),
    "VoVNet": ("vovnet39a", "ese_vovnet19b_dw"),
    "Wide ResNet": ("wide_resnet50_2",),
    "Xception": ("legacy_xception", "xception41", "xception41p"),
}  # fmt: skip

#: What continuous integration runs: small, of many families, and none of those that other tests or pages take as examples.
SAMPLE = (
    "shufflenet_v2_x0_5", "mnasnet0_75", "timm:convnextv2_atto", "timm:repghostnet_050", "timm:resnet10t", "timm:starnet_s1",
)  # fmt: skip

#: Looked at on twenty photographs, and on the other families' kernels as well.
THOROUGH = (
    "resnet18", "mobilenet_v3_small", "googlenet", "timm:convnext_atto", "timm:dla34", "timm:ghostnetv2_100",
    "timm:hrnet_w18_small", "timm:mobilenetv4_conv_small", "timm:regnety_002", "timm:resnest14d",
)  # fmt: skip


#: What a network is exported with where its defaults are refused: pictures of another size, where a pooling does not divide;
#: a layer by name, where the last one is of tokens. And smaller seeds, where float32 itself is too far off (`alive.py`).
GIVEN: dict[str, dict[str, Any]] = {
    "resnet152": {"gain": 0.25},
    "timm:csatv2": {"crop": 448},
    "timm:efficientformer_l1": {"cam_layer": "stages.3.blocks.2"},
}


def torchvision_names() -> list[str]:
    """Return torchvision's CNN classifiers."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in TRANSFORMERS)]


def every_name() -> dict[str, str]:
    """Return network → family; torchvision's first, whose family is the library's name."""
    found = dict.fromkeys(torchvision_names(), "torchvision")
    return found | {f"timm:{name}": family for family, names in TIMM.items() for name in names}
