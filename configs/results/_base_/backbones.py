# What is compared: a CNN, a ViT and hybrids of equally many parameters (a tenth more or less), sized for a CPU. Groups
# are wide: a CPU takes far longer for as many products in narrow ones.
options = dict(drop_path_rate=0.1, native_size=24)
resnext = dict(width=24, groups=2, group_width=64)
halves = dict(cnn=dict(resnext, blocks=(1, 2, 2, 1)), vit=dict(dim=144, depth=4, heads=4))
cnn = dict(options, type="PlainResNeXt", variant=dict(cnn=dict(resnext, blocks=(1, 2, 3, 2)), vit="pico"))
vit = dict(options, type="PlainViT", variant=dict(cnn="rxnano", vit=dict(dim=192, depth=8, heads=4)))
# The hybrid: convolutions first, then attention over their own maps, of strides 16 and 32.
hybrid = dict(
    options,
    type="InterleavedResNeXtViT",
    variant=halves,
    fusion=dict(type="AddFusion"),
    fusion_stages="late",
    global_attention="full",
)
# The same of basic blocks, whose 3×3 convolutions a CPU computes fastest, behind a stem of 3×3 convolutions.
basic = dict(width=48, expansion=1)
basic_cnn = dict(cnn, deep_stem=True, variant=dict(cnn=dict(basic, blocks=(1, 1, 2, 1)), vit="pico"))
basic_vit = dict(vit, deep_stem=True, variant=dict(cnn="rxnano", vit=dict(dim=184, depth=8, heads=4)))
basic_hybrid = dict(
    hybrid,
    deep_stem=True,
    variant=dict(cnn=dict(basic, blocks=(1, 1, 1, 1)), vit=dict(dim=96, depth=4, heads=4)),
)
serial = dict(basic_hybrid, type="SerialResNeXtViT")
parallel = dict(basic_hybrid, type="ParallelResNeXtViT")
