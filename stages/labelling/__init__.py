"""How are the flags of `stages.teacher_logits` carried out, by one process or by many?

`teacher_choice` is the teacher that they describe, `plan` all that is asked for, and `roles` what the process that
leads and those that follow do about it.
"""
