"""Where the trunks of a variant usually start: ImageNet's weights of the same architecture."""

CNN_SOURCES = {
    "r18": "torchvision://resnet18",
    "r34": "torchvision://resnet34",
    "r50": "torchvision://resnet50",
    "rx50": "torchvision://resnext50_32x4d",
    "rx101": "timm://resnext101_32x4d.gluon_in1k",
}
VIT_SOURCES = {
    "ti": "timm://vit_tiny_patch16_224.augreg_in21k",
    "s": "timm://vit_small_patch16_224.augreg_in21k",
    "b": "timm://vit_base_patch16_224.augreg_in21k",
    "l": "timm://vit_large_patch16_224.augreg_in21k",
}


def usual_sources(variant: str) -> dict[str, str]:
    """``cnn`` and ``vit`` of ``TrunkPretrained`` for a variant's name.

    Raises:
        ValueError: for one of its trunks there are none.
    """
    cnn, _, vit = variant.partition("_vit_")
    sources = {}
    for family, name, table in (("cnn", cnn, CNN_SOURCES), ("vit", vit, VIT_SOURCES)):
        if name not in table:
            raise ValueError(
                f"no usual weights for {name} of {variant}; there are some for {', '.join(table)}. "
                f"Weights of your own: model.backbone.init_cfg (docs/weights.md)"
            )
        sources[family] = table[name]
    return sources
