"""Inputs of a model, derived by rule from the names in its forward.

`layouts` gives every input and axis its meaning, by the `facts` of the model; `special_forms` has those beyond texts,
pictures and sounds; `samples` draws arrays. Samples of the user (`user_samples`) take the place of rules, with
`variations` around them; `processor` makes inputs from real data, and `chats` those of a chat with pictures.
"""
