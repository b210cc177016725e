"""The shared core: what a row is, what a view of it looks like, and what the teacher said about that view.

    image files ─▶ shards ─▶ SampleIndex ─┐
                                          ├─▶ ViewPlan ─▶ Renderer ─▶ Loader ─▶ teacher or student
                              Recipe ─────┘                                        │
                                                        SoftLabels ◀───────────────┘ ─▶ LabelStore

One noun per file; each opens with the question that it answers. From the ground up:

    said and counted   errors, progress, cli
    images into tars   sources, keys, payloads, packing, packed, staging, pool
    tars into rows     tar, shards, images, samples, index
    rows into views    draws, distributions, recipe, randaugment, mixing, crops, views, operations, noise, render
    views in batches   ring, loader
    teacher            weights, classmap, teacher, fitting, fitted
    answers            labels, manifest
    the store          canonical, objects, arrays, layout, receipts, recovery, finished, audit, store
    proof              proof, witness, recheck
    the work           labelling, cost, quality, fidelity

``stages`` and ``student`` both stand on this package and do not know each other.
"""
