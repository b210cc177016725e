"""The shared core: what a row is, what a view of it looks like, and what the teacher said about that view.

    shards ─▶ SampleIndex ─┐
                           ├─▶ ViewPlan ─▶ Renderer ─▶ Loader ─▶ (teacher or student)
    Recipe ────────────────┘                                        │
                                            SoftLabels ◀────────────┘ ─▶ LabelStore

One noun per file, imports in one direction (the order of this list):

    errors, progress       what a user is told
    draws                  counter-based random numbers, keyed by (sample key, view, seed)
    recipe                 everything that decides pixels and mixing
    shards, images, index  tars, payloads, rows
    mixing, views          partners and λ; crop boxes, operations, erasing
    operations, render     the same decisions, executed on pixels
    loader                 workers that render into shared memory
    labels                 dense, top-K and argmax encodings of logits
    manifest, objects, store   the contract, durable bytes, the Zarr group
    teacher                any timm model, as a function from uint8 views to logits
    cli                    options and exit codes that all commands share

``stages`` and ``student`` both stand on this package and do not know each other.
"""
