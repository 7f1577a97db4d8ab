# The embedded scenes: drawn once into the cache (HYBRID_DENSE_CACHE or ~/.cache/hybrid_dense), in the COCO layout.
# hybrid-dense's commands point data_root there.
scenes = dict(train=512, val=64, size=160, seed=0)
data_root = "scenes/"
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(data_root=data_root),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data_root=data_root, test_mode=True),
)
test_dataloader = val_dataloader
