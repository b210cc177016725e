"""Who is the teacher, and what does it say about these pixels?

`loading` builds the model that the flags describe, or refuses; `hub` asks whether its weights can be had,
`model_folder` whether a folder describes a sound one; `teacher` runs it; `class_names` says whether its classes are the
data's, and `class_map` puts them in the data's order. `fit` trains a teacher of one's own from what `fit_start` builds,
and `fit_folder` is where it lies; `fitted_recipe` says under which views it learned. `stored` loads the one of a store.

Imports `models`, `durable`, `shards`, `views`, `store` and `rendering`. Students never import it.
"""
