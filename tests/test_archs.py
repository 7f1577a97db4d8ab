"""Variants by name and by sizes of one's own."""

import pytest

from hybrid_dense.archs import CNN_ARCHS, CNNArch, ViTArch, parse_variant


def test_sizes_of_ones_own_are_those_of_the_tables_where_they_say_the_same():
    row = CNN_ARCHS["rx50"]
    sizes = dict(blocks=list(row.blocks), width=row.width, groups=row.groups, group_width=row.group_width)
    assert parse_variant(dict(cnn=sizes, vit="s")) == parse_variant("rx50_vit_s")
    cnn, vit = parse_variant(dict(cnn=dict(blocks=(1, 1, 2, 1), width=32), vit=dict(dim=64, depth=4, heads=2)))
    assert (cnn, vit) == (CNNArch((1, 1, 2, 1), 32), ViTArch(dim=64, depth=4, heads=2))


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("rx50_vit_z", "did you mean"),
        (dict(cnn="rx50"), r"sizes of your own are dict\(cnn=…, vit=…\)"),
        (dict(cnn="rx51", vit="s"), "unknown row 'rx51'; there are "),
        (dict(cnn=5, vit="s"), "5 is neither a row"),
        (dict(cnn=dict(blocks=2), vit="s"), "a number for each of 4 stages"),
        (dict(cnn=dict(blocks=(2, 2)), vit="s"), "a number for each of 4 stages"),
        (dict(cnn=dict(depth=50), vit="s"), "it takes blocks, width, groups, group_width, expansion"),
        (dict(cnn=dict(blocks=(1, 1, 1, 1), expansion=2), vit="s"), "expansion 2 is neither 4"),
        (dict(cnn=dict(blocks=(1, 1, 1, 1), expansion=1, groups=32), vit="s"), "have no groups; leave groups"),
    ],
)
def test_mistakes_are_one_line(variant, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_variant(variant)
    assert "\n" not in str(caught.value)
