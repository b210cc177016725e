"""Who is the teacher, and what does it say about these pixels?

`loading` builds the model that the flags describe, or refuses; `hub` asks whether its weights can be had; `teacher`
runs it; `class_map` puts its classes in the data's order. `fit` trains a teacher of one's own and `fit_folder` is where
it lies; `fitted_recipe` says under which views it learned. `stored` loads the one of a store.

Imports `models`, `durable`, `shards`, `views`, `store` and `rendering`. Students never import it.
"""
