"""What is in each step: which views, with which labels, in which order?

`usable` says what a store can serve. `order` is a pure function of seed and epoch, `stored_answers` gathers the labels,
`feed` renders and proves the views, `tensors` brings them to the device, `targets` is what a step teaches. `view_batch`
is the form in which other people's trainers get it, `position` where their views go on, and `sample_rows` knows the
samples of their pipelines.

Imports `ranks`.
"""
